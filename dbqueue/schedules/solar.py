"""Schedules by the sun: `solar("sunset", latitude, longitude)`. They need the package `ephem`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final

from dbqueue.errors import ImproperlyConfigured
from dbqueue.schedules.due_times import BaseSchedule

POLAR_DAYS: Final = 366
"""How many days to look ahead where the sun does not rise or set every day."""


@dataclass(frozen=True, slots=True)
class Event:
    """How ephem finds an event: its method, the horizon in degrees, and which part of the sun counts."""

    method: str
    horizon: str = "0"
    centre: bool = False


EVENTS: Final = {
    "dawn_astronomical": Event("next_rising", "-18", centre=True),
    "dawn_nautical": Event("next_rising", "-12", centre=True),
    "dawn_civil": Event("next_rising", "-6", centre=True),
    # The upper edge, 34 minutes of arc below the horizon: what refraction lifts (the Naval Observatory's rule).
    "sunrise": Event("next_rising", "-0:34"),
    "solar_noon": Event("next_transit"),
    "sunset": Event("next_setting", "-0:34"),
    "dusk_civil": Event("next_setting", "-6", centre=True),
    "dusk_nautical": Event("next_setting", "-12", centre=True),
    "dusk_astronomical": Event("next_setting", "-18", centre=True),
}


class solar(BaseSchedule):  # noqa: N801 - Celery's name
    """Due at an event of the sun at a place: `solar("sunset", -37.81753, 144.96715)`.

    `event` is one of `EVENTS`; `lat` and `lon` are degrees, north and east positive. On days
    without the event (a polar night) it is not due. Raises ValueError for an unknown event or a
    place that is not on Earth, ImproperlyConfigured where `ephem` is not installed.
    """

    def __init__(
        self, event: str, lat: float, lon: float, *, nowfun: Callable[[], datetime] | None = None, app: Any = None
    ) -> None:
        super().__init__(nowfun=nowfun, app=app)
        self.event, self.lat, self.lon = str(event), float(lat), float(lon)
        if self.event not in EVENTS:
            raise ValueError(f"there is no solar event {event!r}: choose one of {', '.join(EVENTS)}")
        if not -90 <= self.lat <= 90:
            raise ValueError(f"a latitude is from -90 to 90 degrees, not {lat!r}")
        if not -180 <= self.lon <= 180:
            raise ValueError(f"a longitude is from -180 to 180 degrees, not {lon!r}")
        self._ephem()

    @property
    def text(self) -> str:
        return f"solar {self.event} {self.lat!r} {self.lon!r}"

    def next_after(self, moment: datetime, zone: tzinfo = UTC) -> datetime | None:
        ephem = self._ephem()
        event = EVENTS[self.event]
        observer = ephem.Observer()
        observer.lat, observer.lon = str(self.lat), str(self.lon)  # texts are degrees, numbers radians
        observer.elevation, observer.pressure = 0, 0  # refraction is in the horizon already
        observer.horizon = event.horizon
        find = getattr(observer, event.method)
        options = {} if event.method == "next_transit" else {"use_center": event.centre}
        # A second later, for ephem may find the same event again within its precision.
        start = moment.astimezone(UTC) + timedelta(seconds=1)
        for day in range(POLAR_DAYS):
            try:
                observer.date = (start + timedelta(days=day)).replace(tzinfo=None)
                found: datetime = find(ephem.Sun(), **options).datetime().replace(tzinfo=UTC, microsecond=0)
            except ephem.CircumpolarError:
                continue
            if found > moment:
                return found
        return None

    @staticmethod
    def _ephem() -> Any:
        try:
            return importlib.import_module("ephem")
        except ImportError:
            raise ImproperlyConfigured(
                "a solar schedule needs the package ephem: pip install 'dbqueue-sql[solar]'"
            ) from None

    def __repr__(self) -> str:
        return f"<solar: {self.event} at latitude {self.lat}, longitude: {self.lon}>"
