"""A monotonic clock that a test moves, in the place of a module's own."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace

import pytest


def set_clock(monkeypatch: pytest.MonkeyPatch, module: ModuleType, *, at: float = 1000.0) -> list[float]:
    """Let the module's `time.monotonic()` be the one item of the list that is returned: `clock[0] += 1.0`."""
    clock = [at]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    return clock
