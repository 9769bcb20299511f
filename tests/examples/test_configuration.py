"""Each way of configuring an application, and that each setting is honoured and not only stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.running import Example, example

WAYS: dict[str, dict[str, str]] = {
    "by_attribute": {},
    "by_update": {},
    "by_name": {},
    "by_module": {},
    "by_namespace": {},
    "by_envvar": {"CELE_CONFIG_MODULE": "config"},
    "by_environment": {
        "DBQUEUE_TASK_DEFAULT_QUEUE": "oslo",
        "DBQUEUE_TIMEZONE": "Europe/Oslo",
        "DBQUEUE_ACCEPT_CONTENT": "json",
        "DBQUEUE_TASK_SERIALIZER": "json",
    },
}

PROGRAM = """
import json, sys
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo
import sqlalchemy as sa
from {way} import add, app

# A naive eta is a time in Oslo: two seconds from now on Oslo's clocks, an hour or two ago on UTC's.
oslo = datetime.now(ZoneInfo("Europe/Oslo")).replace(tzinfo=None) + timedelta(seconds=1)
later = add.apply_async((1, 2), eta=oslo)

# A row in a content type that accept_content does not name is refused, not decoded.
engine = sa.create_engine(app.conf.broker_url)
with engine.begin() as connection:
    connection.execute(sa.text(
        "INSERT INTO dbqueue_jobs (id, task, queue, content_type)"
        " VALUES ('pickled', '{way}.add', 'oslo', 'application/x-python-serialize')"
    ))
refused = app.AsyncResult("pickled").get(timeout=30, propagate=False)

value = later.get(timeout=30)
with engine.begin() as connection:
    eta = connection.execute(sa.text("SELECT eta FROM dbqueue_jobs WHERE id = :id"), {{"id": later.id}}).scalar()
if isinstance(eta, str):
    eta = datetime.fromisoformat(eta + "+00:00")
print(json.dumps({{
    "value": value,
    "queue": later.queue,
    "refused": type(refused).__name__,
    "off": abs((eta - oslo.replace(tzinfo=ZoneInfo("Europe/Oslo"))).total_seconds()),
    "early": later.date_done < eta,
    "shown": str(later.date_done.utcoffset()),
    "conf": [app.conf.task_serializer, app.conf.result_serializer, app.conf.accept_content,
             app.conf.timezone, app.conf.enable_utc],
}}))
"""


@pytest.mark.parametrize("way", WAYS)
def test_each_setting_is_honoured(way: str, tmp_path: Path, database_url: str) -> None:
    configured = example("configuration", tmp_path, database_url, **WAYS[way])
    with configured.worker(way, "--concurrency=1"):
        seen = configured.value(PROGRAM.format(way=way))
    assert seen == {
        "value": 3,
        "queue": "oslo",
        "refused": "ContentDisallowed",
        "off": pytest.approx(0, abs=0.01),
        "early": False,
        "shown": "0:00:00",
        "conf": ["json", "json", ["json"], "Europe/Oslo", True],
    }


def test_without_enable_utc_times_are_shown_in_the_zone(tmp_path: Path, sqlite_url: str) -> None:
    configured = example("configuration", tmp_path, sqlite_url, DBQUEUE_ENABLE_UTC="false")
    with configured.worker("by_name", "--concurrency=1"):
        zone = configured.value(
            "import json; from by_name import add; r = add.delay(1, 2); r.get(timeout=30);"
            "print(json.dumps(str(r.date_done.tzinfo)))"
        )
    assert zone == "Europe/Oslo"


@pytest.mark.parametrize("setting", ["TASK_SERIALIZER", "RESULT_SERIALIZER"])
def test_a_serializer_that_is_not_there_is_refused(setting: str, tmp_path: Path, sqlite_url: str) -> None:
    said = example("configuration", tmp_path, sqlite_url).python(
        "import by_environment", code=1, **{f"DBQUEUE_{setting}": "protobuf"}
    )
    assert f"DBQUEUE_{setting}" in said
    assert "json" in said.splitlines()[-1]


def test_the_folder_has_no_way_that_is_not_tested(tmp_path: Path) -> None:
    written = {path.stem for path in Path(__file__).parents[2].joinpath("examples/configuration").glob("by_*.py")}
    assert written == set(WAYS)


def test_a_namespace_leaves_other_names_alone(tmp_path: Path, sqlite_url: str) -> None:
    shop: Example = example("configuration", tmp_path, sqlite_url)
    assert shop.value("import json, by_namespace as b; print(json.dumps(b.app.conf.timezone))") == "Europe/Oslo"
