"""The interpreter's settings while a worker's threads share it: they wait for each other no longer than need be."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator
from typing import Final

from dbqueue.worker.config import WorkerConfig

SWITCH_SECONDS: Final = 0.0005
"""The switch interval: at its default of 5 ms the loop and the rounds wait for each other."""
COLLECT_AFTER: Final = (20_000, 50, 50)
"""The collector's thresholds. Jobs come and go by the thousand and hold no cycles: at the defaults the collector takes
a tenth of a busy worker's time, and all its threads wait meanwhile."""


@contextlib.contextmanager
def tuned(config: WorkerConfig) -> Iterator[None]:
    """Set them, and put them back at the end. The collector is left alone where it is others' too."""
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    own_process = not config.embedded and config.pool != "solo"
    sys.setswitchinterval(SWITCH_SECONDS)
    if own_process:
        gc.set_threshold(*COLLECT_AFTER)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        if own_process:
            gc.set_threshold(*thresholds)
