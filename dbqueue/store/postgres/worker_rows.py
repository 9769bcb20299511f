"""The statements of the workers' own rows: who is registered, who beats, who is dead, and who was there first."""

from __future__ import annotations

from typing import Final

from dbqueue.settings.kinds import MAX_SECONDS
from dbqueue.store.records import MOST_PIDS
from dbqueue.store.sessions import ELDEST_SECONDS

_ROW: Final = """
INSERT INTO {workers} AS w (id, name, hostname, pid, pool, concurrency, queues, version, lease_seconds)
VALUES (%(id)s, %(name)s, %(hostname)s, %(pid)s, %(pool)s, %(concurrency)s, %(queues)s, %(version)s,
    %(lease_seconds)s)
ON CONFLICT (id) """

# Its id is random: a conflict is the same registration, whose reply was lost.
REGISTER: Final = f"{_ROW} DO NOTHING"

REOPEN: Final = f"{_ROW} DO UPDATE SET closed_at = NULL, heartbeat_at = now() WHERE w.closed_at IS NOT NULL"

HEARTBEAT: Final = "UPDATE {workers} SET heartbeat_at = now() WHERE id = %(worker)s AND closed_at IS NULL"

CLOSE_WORKER: Final = "UPDATE {workers} SET closed_at = now() WHERE id = %(worker)s AND closed_at IS NULL"

# A row that somebody else has written may hold any number, and is not to keep others from being seen.
_LEASE: Final = f"make_interval(secs => least(greatest(lease_seconds, 0), {MAX_SECONDS}))"

# Such a row could be the eldest's for ever, and nobody would do what the eldest does: a heartbeat to come is none.
ELDEST: Final = f"""
SELECT id FROM {{workers}}
WHERE closed_at IS NULL AND heartbeat_at <= clock_timestamp()
  AND heartbeat_at >= now() - least({_LEASE}, make_interval(secs => {ELDEST_SECONDS}))
ORDER BY started_at, id LIMIT 1"""

# One that died counts until its lease is over: the others hold back a little longer.
BEFORE: Final = f"""
SELECT coalesce(sum(concurrency), 0), (array_agg(pid ORDER BY started_at, id))[:{MOST_PIDS}] FROM {{workers}}, (
    SELECT started_at AS own_start, id AS own_id, hostname AS own_host, queues::text AS own_queues
    FROM {{workers}} WHERE id = %(worker)s
) own
WHERE hostname = own_host AND queues::text = own_queues AND (started_at, id) < (own_start, own_id)
  AND closed_at IS NULL AND heartbeat_at >= now() - {_LEASE}"""

OPEN_WORKERS: Final = f"""
SELECT id, heartbeat_at::text, least(greatest(lease_seconds, 0), {MAX_SECONDS})::float8,
    heartbeat_at < coalesce(%(now)s::timestamptz, now()) - {_LEASE}, extract(epoch FROM clock_timestamp())::float8
FROM {{workers}} WHERE closed_at IS NULL ORDER BY id"""
