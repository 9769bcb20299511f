"""Signals, under the module name of `celery.utils.dispatch`."""

from __future__ import annotations

from dbqueue.signals import Signal

__all__ = ["Signal"]
