"""Settings from the module `config` itself."""

import config  # type: ignore[import-not-found]  # beside this file

from dbqueue import DBQueue

app = DBQueue("cele")
app.config_from_object(config)


@app.task
def add(x: int, y: int) -> int:
    return x + y
