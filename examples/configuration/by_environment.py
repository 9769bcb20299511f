"""Settings from the environment alone, as containers like it: each one has a variable.

DBQUEUE_BROKER_URL=sqlite:///cele.sqlite3
DBQUEUE_TASK_DEFAULT_QUEUE=oslo
DBQUEUE_TIMEZONE=Europe/Oslo

A variable is stronger than the same setting in code.
"""

from dbqueue import DBQueue

app = DBQueue("cele")


@app.task
def add(x: int, y: int) -> int:
    return x + y
