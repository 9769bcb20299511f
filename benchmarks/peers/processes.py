"""Worker processes of a peer that has no pool of its own, or whose command is started as it is."""

from __future__ import annotations

import contextlib
import subprocess
from contextlib import contextmanager

PATIENCE_SECONDS = 5


@contextmanager
def running(*commands, **options):
    """These commands, quiet, until the block ends; what does not end by SIGTERM in a while is killed."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen(command, **quiet, **options) for command in commands]
    try:
        yield processes
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE_SECONDS)
            process.kill()
            process.wait()
