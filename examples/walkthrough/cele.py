"""The first steps: an application and a task.

dbqueue -A cele worker --loglevel=info

Then, in another terminal, `python`:

from cele import add
add.delay(1, 2)
"""

from dbqueue import DBQueue

# A file in this folder. PostgreSQL: broker="postgresql://user:password@host/name"
app = DBQueue("cele", broker="sqlite:///cele.sqlite3")


@app.task
def add(x: int, y: int) -> int:
    return x + y
