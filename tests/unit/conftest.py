"""What the tests without a database share."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from dbqueue.worker.supervising import children


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The processes to which a worker has sent a signal: none gets it, for a child here is no process."""
    killed: list[int] = []
    monkeypatch.setattr(children, "os", SimpleNamespace(getpid=os.getpid, kill=lambda pid, _: killed.append(pid)))
    return killed
