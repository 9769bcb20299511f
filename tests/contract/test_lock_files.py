"""SQLite's lock files: the kernel tells of each worker whose process is gone, and of nobody else."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dbqueue.errors import OperationalError
from dbqueue.jobs import Succeeded
from dbqueue.store.queries import open_workers
from dbqueue.store.records import WorkerInfo
from dbqueue.store.sqlite import liveness as sqlite_liveness
from dbqueue.store.sqlite.store import SqliteStore
from tests.stores import TestWorker, enqueued, opened, row


def test_a_dead_process_is_seen_before_its_heartbeat_grows_old(sqlite_url: str) -> None:
    """On SQLite, where the kernel tells: it has let go of the lock of a worker that is gone, however it went."""
    old_lock_file(sqlite_url)
    with opened(sqlite_url) as store, opened(sqlite_url) as its_own:
        assert isinstance(its_own, SqliteStore)
        rescuer, dead = TestWorker(store, lease_seconds=3600), TestWorker(its_own, lease_seconds=3600)
        if its_own.worker_locks._descriptor is None:
            pytest.skip("this system has no locks of open files")
        job_id = enqueued(store)
        dead.claim_one()
        assert rescuer.session.rescue(max_losses=3) == []
        os.close(its_own.worker_locks._descriptor)  # as the kernel does when a process ends
        its_own.worker_locks._descriptor = None
        with opened(sqlite_url) as other:  # whoever looks leaves the lock to the next
            assert all(each.worker_is_gone(dead.id) for each in (store, other, store))
        assert {each.id: each.alive for each in open_workers(store)} == {rescuer.id: True, dead.id: False}
        assert [(each.worker_id, each.requeued) for each in rescuer.session.rescue(max_losses=3)] == [(dead.id, 1)]
        assert row(store, job_id)["losses"] == 1
        dead.close()
        rescuer.close()


def test_a_dead_process_is_seen_beside_many_that_live(sqlite_url: str) -> None:
    """No other worker's lock is taken for its own."""
    old_lock_file(sqlite_url)
    with opened(sqlite_url) as store, opened(sqlite_url) as other:
        assert isinstance(store, SqliteStore) and isinstance(other, SqliteStore)  # noqa: PT018
        if store.worker_locks._descriptor is None:
            pytest.skip("this system has no locks of open files")
        living, dead = ([f"{kind} {number}" for number in range(500)] for kind in ("living", "dead"))
        for worker_id in living:
            store.worker_locks.hold(worker_id)
        assert all(map(other.worker_is_gone, dead))
        assert not any(map(other.worker_is_gone, living))
        for worker_id in living:
            store.worker_locks.drop(worker_id)


def lock_file(sqlite_url: str) -> Path:
    return Path(f"{sa.make_url(sqlite_url).database}-workers")


def old_lock_file(sqlite_url: str) -> None:
    """By one that is new nobody is dead."""
    lock_file(sqlite_url).touch()
    os.utime(lock_file(sqlite_url), (0, 0))


def test_who_lives_is_not_dead_by_a_new_lock_file(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who live hold their locks in it with their next look, and until then it tells of no death."""
    steady = time.monotonic()
    monkeypatch.setattr(sqlite_liveness, "monotonic", lambda: steady)
    old_lock_file(sqlite_url)
    with opened(sqlite_url) as first, opened(sqlite_url) as second:
        assert isinstance(first, SqliteStore) and isinstance(second, SqliteStore)  # noqa: PT018
        if first.worker_locks._descriptor is None:
            pytest.skip("this system has no locks of open files")
        first.worker_locks.hold("first")
        second.worker_locks.hold("second")
        assert first.worker_locks.released("nobody")
        lock_file(sqlite_url).unlink()
        assert not first.worker_locks.released("second")
        with opened(sqlite_url) as third:
            assert isinstance(third, SqliteStore)
            assert not third.worker_locks.released("second")
            assert not second.worker_locks.released("first")
            steady += sqlite_liveness.SETTLE_SECONDS
            assert not third.worker_locks.released("first")
            assert not third.worker_locks.released("second")
            assert third.worker_locks.released("nobody")
        assert not first.worker_locks.released("second")
        assert not second.worker_locks.released("first")
        assert first.worker_locks.released("nobody")
        lock_file(sqlite_url).unlink()
        with opened(sqlite_url) as third:  # which makes it
            assert isinstance(third, SqliteStore)
            assert not third.worker_locks.released("second")
        assert not first.worker_locks.released("second")
        assert not second.worker_locks.released("first")
        steady += sqlite_liveness.SETTLE_SECONDS
        assert not second.worker_locks.released("first")
        first.worker_locks.drop("first")
        assert second.worker_locks.released("first")
        second.worker_locks.drop("second")


def test_a_lock_file_of_the_future_settles_as_soon_as_one_that_is_new(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine's clock may have been put back since it was made."""
    steady = time.monotonic()
    monkeypatch.setattr(sqlite_liveness, "monotonic", lambda: steady)
    old_lock_file(sqlite_url)
    os.utime(lock_file(sqlite_url), (time.time() + 3600, time.time() + 3600))
    with opened(sqlite_url) as store:
        assert isinstance(store, SqliteStore)
        if store.worker_locks._descriptor is None:
            pytest.skip("this system has no locks of open files")
        assert not store.worker_locks.released("nobody")
        steady += sqlite_liveness.SETTLE_SECONDS
        assert store.worker_locks.released("nobody")


def test_a_lock_file_is_for_the_workers_of_other_users_too(sqlite_url: str) -> None:
    """As far as the mask of who makes it lets it be, as the database's own file."""
    before = os.umask(0)
    try:
        with opened(sqlite_url) as store:
            assert isinstance(store, SqliteStore)
            if store.worker_locks._descriptor is None:
                pytest.skip("this system has no locks of open files")
            assert lock_file(sqlite_url).stat().st_mode & 0o777 == 0o666
    finally:
        os.umask(before)


def test_a_lock_file_whose_folder_is_gone_ends_no_worker(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    locks = sqlite_liveness.WorkerLocks(tmp_path / "folder" / "jobs.db")
    locks.hold("one")
    shutil.rmtree(tmp_path / "folder")
    locks.hold("two")
    assert not locks.released("one")
    for worker_id in ("one", "two"):
        locks.drop(worker_id)
    locks.close()
    assert locks.closed


def test_a_worker_that_starts_holds_its_lock_where_others_look_for_it(sqlite_url: str) -> None:
    """The lock file that was there when its program opened the database may have been replaced long ago."""
    old_lock_file(sqlite_url)
    with opened(sqlite_url) as its_own:
        assert isinstance(its_own, SqliteStore)
        if its_own.worker_locks._descriptor is None:
            pytest.skip("this system has no locks of open files")
        lock_file(sqlite_url).unlink()
        old_lock_file(sqlite_url)
        with opened(sqlite_url) as store:
            rescuer, worker = TestWorker(store), TestWorker(its_own)
            assert rescuer.session.rescue(max_losses=3) == []
            for each in (worker, rescuer):
                each.close()


def test_a_worker_holds_its_lock_before_others_see_its_row(sqlite_url: str) -> None:
    """One that is registered and holds no lock is dead. Who has locked the file keeps the row from being written."""
    old_lock_file(sqlite_url)
    with opened(sqlite_url) as its_own, opened(sqlite_url) as other:
        assert isinstance(its_own, SqliteStore)
        if its_own.worker_locks._descriptor is None:
            pytest.skip("this system has no locks of open files")
        worker = WorkerInfo("worker@test#1", "worker@test", "test", 1, "solo", 1, ("celery",), "0", 30.0)
        session: Any = its_own.work_session("test")
        session._driver.execute("PRAGMA busy_timeout = 0")
        with other.connect(), pytest.raises(OperationalError):
            session.register(worker)
        assert not other.worker_is_gone(worker.id)
        session.register(worker)
        assert [each.id for each in open_workers(other)] == [worker.id]
        session.close_worker(worker.id)
        session.close()


def test_a_lock_file_that_was_deleted(sqlite_url: str) -> None:
    """Who makes it anew finds none of the locks in it: those who live have put them there with their next look."""
    with opened(sqlite_url) as first, opened(sqlite_url) as second:
        assert isinstance(first, SqliteStore)
        if first.worker_locks._descriptor is None:
            pytest.skip("this system has no locks of open files")
        lives = TestWorker(first)
        enqueued(first)
        job = lives.claim_one()
        first.worker_locks._path.unlink()
        descriptors = len(os.listdir("/proc/self/fd"))
        assert lives.session.rescue(max_losses=10) == []
        assert len(os.listdir("/proc/self/fd")) == descriptors
        other = TestWorker(second)
        assert other.session.rescue(max_losses=10) == []
        assert lives.settle(Succeeded(job.id, job.lease, "1", 0.0)).settled == {job.id}
        lives.close()
        other.close()
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_a_store_that_is_closed_has_living_workers_still(sqlite_url: str) -> None:
    """Its lock on the file beside the database is theirs, too: to let it go would be their death to others."""
    old_lock_file(sqlite_url)
    with opened(sqlite_url) as store, opened(sqlite_url) as its_own:
        rescuer, worker = TestWorker(store, lease_seconds=3600), TestWorker(its_own, lease_seconds=3600)
        job_id = enqueued(store)
        worker.claim_one()
        its_own.close()
        assert rescuer.session.rescue(max_losses=3) == []
        assert row(store, job_id)["status"] == "STARTED"
        worker.session.close_worker(worker.id)
        its_own.close()
        assert "worker_locks" not in vars(its_own)  # nobody's life hangs on the open file any more
        for each in (rescuer, worker):
            each.close()
