"""Signatures of jobs: a worker that has keys runs nothing that was not signed with one of them.

They are for a database in which others may write than those who may say what workers run. A signature is an HMAC
(RFC 2104, SHA-256) over what decides what is run, and when: id, task, queue, arguments, content type, headers, options
of the call, eta and expiry. It is kept in the row's `options`, since it has to travel with them through claims,
retries and workflows anyway: a column of its own would be one more in each statement of the hot path, for the few who
use it.

A time that only the database's clock could tell (`countdown`, `expires` in seconds) would be outside of the signature:
with keys it is made a point in time here, by the clock of whoever signs. What waits for other jobs keeps its seconds,
which count from its release: they are signed as such.

Of a job that takes results the signature covers whose they are, and where they go among its arguments; but not the
results themselves, which are written by whoever may end jobs, nor which failure an errback is told of. `add_to_chord`
may add to the list that a chord's body takes, behind what was signed: so may others who can write edges.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from dbqueue import codec
from dbqueue.errors import BadSignature, DecodeError
from dbqueue.jobs import REJECTIONS, RETRIES_OPTION, UNIQUE_OPTION, ClaimedJob, NewJob
from dbqueue.workflows import DELAY, ERRBACK, EXPIRY, REPLACED, Source

SIGNATURE: Final = "signature"
"""Its name among a row's options."""
LISTED: Final = "signed_items"
"""Among the options of a job that takes results, and signed with them: how many items a list has that is its first
argument; 0 where there is no such list."""
_ITEM: Final = re.compile(r"\[(\d{1,9})[],]")
"""How the place of an item begins; of a list in the list, too."""
_DOMAIN: Final = b"dbqueue job 1"
_ENGINE_OPTIONS: Final = frozenset({SIGNATURE, REJECTIONS, RETRIES_OPTION, UNIQUE_OPTION, REPLACED})
"""What the engine itself notes among the options of a job that is signed already."""
_MILLISECOND: Final = timedelta(milliseconds=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Signer:
    """The first key signs; each of them verifies, so that a new key can be spread before it signs."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [key.encode() for key in keys]

    def sign(self, job: NewJob, sources: Sequence[Source] = ()) -> NewJob:
        """The job with its signature, and its times as points in time; `sources` are what it takes of others."""
        now = datetime.now(UTC)
        if job.delay_seconds is not None:
            job = job._replace(eta=now + timedelta(seconds=job.delay_seconds), delay_seconds=None)
        if job.expires_seconds is not None:
            job = job._replace(expires_at=now + timedelta(seconds=job.expires_seconds), expires_seconds=None)
        options = _parsed(job.options)
        if sources:
            options[LISTED] = 1 + max(_index(place) for _, place in sources)
        message = _message(job, options, job.eta, job.expires_at, sources)
        return job._replace(options=self._with_signature(options, message))

    def check(self, job: ClaimedJob) -> None:
        """Raise BadSignature unless the job as it was claimed is what somebody with a key has enqueued."""
        options = _parsed(job.options)
        given = options.get(SIGNATURE)
        if not isinstance(given, str):
            raise BadSignature(
                "the job is not signed, and this worker runs only what is signed with one of task_signing_keys: it was "
                "enqueued by plain SQL, or by a program without the keys"
            )
        try:
            message = _message(job, options, _moment(job.eta), _moment(job.expires_at), _sources(job))
            early = _is_early(job)
        except (TypeError, ValueError, OverflowError):  # a column of SQLite may hold anything
            raise BadSignature("the job's columns are none that anybody can have signed") from None
        found = given.encode(errors="replace")
        # Each in constant time: how long it takes tells nothing of what the signature should be.
        if not any(hmac.compare_digest(_digest(key, message).encode(), found) for key in self._keys):
            raise BadSignature(
                "the job's signature fits none of task_signing_keys: its row was changed, or another key signed it"
            )
        if early:
            raise BadSignature("the job's row was changed: it came before the time that was signed as its eta")

    def changed(self, job: ClaimedJob, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The columns that a retry changes, with the signature that the row needs then."""
        signed = {"args", "kwargs", "content", "queue", "options", "expires_at", "headers"} & changes.keys()
        if not signed:
            return dict(changes)
        after = job._replace(**{name: changes[name] for name in signed})
        options = _parsed(after.options)
        if not signed.isdisjoint(("args", "content")):  # new arguments are all of them: no results are added again
            after = after._replace(inputs=False)
            options.pop(LISTED, None)
        message = _message(after, options, _moment(after.eta), _moment(after.expires_at), _sources(after))
        return {**changes, "options": self._with_signature(options, message)}

    def _with_signature(self, options: dict[str, Any], message: bytes) -> str:
        return json.dumps({**options, SIGNATURE: _digest(self._keys[0], message)}, ensure_ascii=False)


def _digest(key: bytes, message: bytes) -> str:
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def _parsed(options: str | None) -> dict[str, Any]:
    try:
        found = codec.loads(options, typed=False) if options else {}
    except DecodeError:
        found = None
    if not isinstance(found, dict):
        raise BadSignature("the job's options are no JSON object: nobody can have signed them")
    return found


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _is_early(job: ClaimedJob) -> bool:
    """Whether it was given out before its ETA: the tables see to the `ready_at` of a row, but not to its `held_at`.

    Both times are the database's, and no clock of a worker's is asked.
    """
    eta = _moment(job.eta)
    if eta is None:
        return False
    due = datetime.fromisoformat(job.ready_at)
    return (due if due.tzinfo is not None else due.replace(tzinfo=UTC)) < eta  # SQLite's times name no zone


def _index(place: str) -> int:
    """Of the item of the list that is the first argument; -1 for any other place."""
    found = _ITEM.match(place)
    return int(found[1]) if found else -1


def _sources(job: ClaimedJob) -> list[Source]:
    taken = job.inputs if isinstance(job.inputs, tuple) else ()
    return [(None if place == ERRBACK else predecessor, place) for predecessor, place, _, _ in taken]


def _taken(sources: Iterable[Source], listed: int) -> str:
    """What was there to be signed: in one order, and without what has been added to the end of a list."""
    return "\n".join(sorted(json.dumps(source) for source in sources if not 0 < listed <= _index(source[1])))


def _message(
    job: NewJob | ClaimedJob,
    options: Mapping[str, Any],
    eta: datetime | None,
    expires_at: datetime | None,
    sources: Sequence[Source],
) -> bytes:
    """What is signed. Each part has its length before it, so that no two jobs come to the same text."""
    own = {name: value for name, value in options.items() if name not in _ENGINE_OPTIONS}
    parts: list[str | bytes | None] = [
        job.id,
        job.task,
        job.queue,
        job.args,
        job.kwargs,
        job.content_type,
        job.content,
        job.headers,
        json.dumps(own, sort_keys=True, ensure_ascii=True),
        None if DELAY in own else _milliseconds(eta),
        None if EXPIRY in own else _milliseconds(expires_at),
    ]
    if sources or LISTED in own:
        parts.append(_taken(sources, own.get(LISTED, 0)))
    text = bytearray(_DOMAIN)
    for part in parts:
        if part is None:
            text += b"-"
            continue
        data = part.encode(errors="surrogatepass") if isinstance(part, str) else bytes(memoryview(part))
        text += b"+" + len(data).to_bytes(8, "big") + data
    return bytes(text)


def _milliseconds(moment: datetime | None) -> str | None:
    """A time as every database keeps it: SQLite's tables round up to the millisecond."""
    return None if moment is None else str(-((_EPOCH - moment) // _MILLISECOND))
