"""What a worker shows when it starts, in the shape that Celery's users know."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from dbqueue.worker.config import WorkerConfig

_TEMPLATE: Final = """
 -------------- {name} v{version} (dbqueue)
                {platform} {now}

[config]
.> app:         {app}
.> transport:   {url}
.> results:     the same table ({table})
.> concurrency: {concurrency} ({pool})
.> task events: {events}

[queues]
{queues}
"""


def banner(
    config: WorkerConfig, *, app: str, url: str, table: str, now: datetime, tasks: Iterable[str] | None = None
) -> str:
    """`url` is printed as it is: masked already. `tasks` are listed where they are given."""
    text = _TEMPLATE.format(
        name=config.name,
        version=config.version,
        platform=platform.platform(),
        now=f"{now:%Y-%m-%d %H:%M:%S}",
        app=app,
        url=url,
        table=table,
        concurrency=config.slots,
        pool=config.pool,
        events="ON" if config.task_events else "OFF (enable -E to monitor tasks in this worker)",
        queues="\n".join(f".> {queue}" for queue in config.queues),
    )
    if tasks is None:
        return text
    return text + "\n[tasks]\n" + "".join(f"  . {name}\n" for name in sorted(tasks))
