"""Settings from the module that an environment variable names: CELE_CONFIG_MODULE=config."""

from dbqueue import DBQueue

app = DBQueue("cele")
app.config_from_envvar("CELE_CONFIG_MODULE")


@app.task
def add(x: int, y: int) -> int:
    return x + y
