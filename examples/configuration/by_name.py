"""Settings from the module `config`, by its name: imported when a setting is first read."""

from dbqueue import DBQueue

app = DBQueue("cele")
app.config_from_object("config")


@app.task
def add(x: int, y: int) -> int:
    return x + y
