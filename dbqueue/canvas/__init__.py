"""Canvas: signatures, and what they are put together to. Import these names from `dbqueue`, as from `celery`."""

from __future__ import annotations

from dbqueue.canvas.batches import BatchResult, batch
from dbqueue.canvas.dags import DagResult, dag
from dbqueue.canvas.primitives import chain, chord, chunks, group, xmap, xstarmap
from dbqueue.canvas.signatures import Signature, maybe_signature, maybe_subtask, signature, subtask
from dbqueue.canvas.stamping import GroupStampingVisitor, StampingVisitor

_chain = chain
_chord = chord

__all__ = [
    "BatchResult",
    "DagResult",
    "GroupStampingVisitor",
    "Signature",
    "StampingVisitor",
    "batch",
    "chain",
    "chord",
    "chunks",
    "dag",
    "group",
    "maybe_signature",
    "maybe_subtask",
    "signature",
    "subtask",
    "xmap",
    "xstarmap",
]
