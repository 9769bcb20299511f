"""Schedules by the sun: the events of each day, and the days without one."""

from __future__ import annotations

import math
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from dbqueue.errors import ImproperlyConfigured
from dbqueue.schedules import from_text, solar
from tests.unit.due_times import due_times


def test_solar_without_ephem_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ephem", None)
    with pytest.raises(ImproperlyConfigured, match=r"needs the package ephem: pip install 'dbqueue-sql\[solar\]'"):
        solar("sunset", -37.81753, 144.96715)


@pytest.mark.parametrize(("event", "lat", "lon"), [("teatime", 0, 0), ("sunset", 91, 0), ("sunset", 0, -181)])
def test_places_and_events_that_cannot_be(event: str, lat: float, lon: float) -> None:
    with pytest.raises(ValueError, match=r"solar event|latitude|longitude"):
        solar(event, lat, lon)


ZENITHS = {"sunrise": 90.833, "sunset": 90.833, "dusk_civil": 96.0, "dawn_nautical": 102.0, "dusk_astronomical": 108.0}


def almanac(event: str, lat: float, lon: float, day: datetime) -> datetime:
    """The event of this day by the formulas of NOAA's solar calculator, which are good to a minute or two."""
    year = 2 * math.pi / 365 * (day.timetuple().tm_yday - 1)
    wave = [(math.cos(n * year), math.sin(n * year)) for n in (1, 2, 3)]
    (c1, s1), (c2, s2), (c3, s3) = wave
    equation = 229.18 * (0.000075 + 0.001868 * c1 - 0.032077 * s1 - 0.014615 * c2 - 0.040849 * s2)
    tilt = 0.006918 - 0.399912 * c1 + 0.070257 * s1 - 0.006758 * c2 + 0.000907 * s2 - 0.002697 * c3 + 0.00148 * s3
    angle = 0.0
    if event != "solar_noon":
        phi = math.radians(lat)
        cosine = math.cos(math.radians(ZENITHS[event])) / (math.cos(phi) * math.cos(tilt))
        angle = math.degrees(math.acos(cosine - math.tan(phi) * math.tan(tilt)))
        angle = -angle if event in ("sunset", "dusk_civil", "dusk_astronomical") else angle
    return day + timedelta(minutes=720 - 4 * (lon + angle) - equation)


class TestSun:
    """With ephem."""

    @pytest.fixture(autouse=True)
    def _ephem(self) -> None:
        pytest.importorskip("ephem")

    @pytest.mark.parametrize("event", [*ZENITHS, "solar_noon"])
    @pytest.mark.parametrize(("lat", "lon"), [(59.9139, 10.7522), (-37.81753, 144.96715), (40.7, -74.0)])
    @pytest.mark.parametrize("day", [datetime(2026, 3, 9, tzinfo=UTC), datetime(2026, 10, 9, tzinfo=UTC)])
    def test_the_almanac(self, event: str, lat: float, lon: float, day: datetime) -> None:
        expected = almanac(event, lat, lon, day)
        due = solar(event, lat, lon).next_after(expected - timedelta(minutes=20))
        assert due is not None
        assert abs(due - expected) <= timedelta(minutes=4)

    def test_each_day_once(self) -> None:
        found = due_times(solar("sunset", -37.81753, 144.96715), datetime(2026, 1, 1, tzinfo=UTC), 365)
        assert {(b - a).total_seconds() // 3600 for a, b in pairwise(found)} == {23, 24}

    def test_a_polar_summer_has_no_sunset(self) -> None:
        due = solar("sunset", 78.2232, 15.6267).next_after(datetime(2026, 5, 1, tzinfo=UTC))
        assert due is not None
        assert due.month == 8
        noon = solar("solar_noon", 78.2232, 15.6267).next_after(datetime(2026, 12, 21, tzinfo=UTC))
        assert noon is not None
        assert noon.day in (21, 22)

    def test_text_and_repr(self) -> None:
        made = solar("sunset", -37.81753, 144.96715)
        assert repr(made) == "<solar: sunset at latitude -37.81753, longitude: 144.96715>"
        assert made.text == "solar sunset -37.81753 144.96715"
        assert from_text(made.text) == made
        assert made != solar("sunrise", -37.81753, 144.96715)
