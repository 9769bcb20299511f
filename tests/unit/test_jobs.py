"""The engine's values."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from dbqueue import jobs
from tests.stores import claimed_job


def test_ids_are_uuids_of_version_7() -> None:
    for _ in range(1000):
        parsed = uuid.UUID(jobs.new_job_id())
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
        assert str(parsed) == str(parsed).lower()


def test_ids_are_unique_across_threads() -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: jobs.new_job_id(), range(20_000)))
    assert len(set(ids)) == len(ids)


def test_ids_follow_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_last_tick", 0)  # put back at the end: the ids of this process do not stay in the future
    earlier = jobs.new_job_id()
    monkeypatch.setattr("time.time_ns", lambda: 4_000_000_000_000_000_000)
    later = jobs.new_job_id()
    assert earlier < later
    assert int(later.replace("-", "")[:12], 16) == 4_000_000_000_000


def test_what_was_made_just_now_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = jobs.new_job_id()
    assert jobs.is_new(job_id)
    assert not jobs.is_new(f"{job_id}-receipt"), "an id that a caller has derived from it"
    random = f"{job_id[:14]}4{job_id[15:]}"  # of version 4: its digits are no time
    assert not any(map(jobs.is_new, ("", "mine", "x" * 36, "01900000-0000-7000-8000-000000000000", random)))
    now = time.time()
    for seconds, expected in (
        (1 - jobs.NEW_SECONDS, True),
        (-1 - jobs.NEW_SECONDS, False),
        (jobs.NEW_SECONDS + 1, False),
    ):
        monkeypatch.setattr("time.time", lambda seconds=seconds: now + seconds)
        assert jobs.is_new(job_id) is expected


def test_ids_of_one_thread_rise_even_within_a_tick_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_last_tick", 0)
    monkeypatch.setattr("time.time_ns", lambda: 1_700_000_000_000_000_000)
    ids = [jobs.new_job_id() for _ in range(10_000)]  # more than a millisecond has ticks
    assert ids == sorted(ids)


def test_every_status_is_waiting_started_or_terminal() -> None:
    assert set(jobs.STATUSES) == jobs.WAITING | jobs.TERMINAL | {jobs.STARTED}
    assert not jobs.WAITING & jobs.TERMINAL


def test_values_cannot_be_changed() -> None:
    outcome = jobs.Succeeded("a", "b", None, 0.0)
    with pytest.raises(AttributeError):
        outcome.lease = "c"  # type: ignore[misc]


@pytest.mark.parametrize("options", ['{"shadow": ' + "[" * 100_000, '["shadow"]', '{"shadow": 5}', '"shadow"'])
def test_options_that_are_none_name_nothing(options: str) -> None:
    assert claimed_job(task="pack", options=options).shown_name == "pack"
