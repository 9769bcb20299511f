"""Settings from names that begin with CELE_."""

from dbqueue import DBQueue

app = DBQueue("cele")
app.config_from_object("namespaced_config", namespace="CELE")


@app.task
def add(x: int, y: int) -> int:
    return x + y
