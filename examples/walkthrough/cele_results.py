"""The same with `backend=` spelt out, and a task that takes its time.

dbqueue -A cele_results worker --loglevel=info

`backend` may be left out: a job's row holds its result. If it is given, it is the same database.
"""

import os
import time

from dbqueue import DBQueue

URL = "sqlite:///cele.sqlite3"

app = DBQueue("cele", broker=URL, backend=URL)

SECONDS = float(os.environ.get("CELE_SECONDS", "5"))


@app.task
def add(x: int, y: int) -> int:
    time.sleep(SECONDS)
    return x + y
