"""What says something of the process or its host, and nothing of what was done there."""

from __future__ import annotations

import errno


def are_used_up(error: BaseException) -> bool:
    """Whether the process, or its host, had no file descriptor left."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
