"""Settings in one call."""

from dbqueue import DBQueue

app = DBQueue("cele")
app.conf.update(
    broker_url="sqlite:///cele.sqlite3",
    task_serializer="json",
    accept_content=["json"],
    result_serializer="json",
    timezone="Europe/Oslo",
    enable_utc=True,
    task_default_queue="oslo",
)


@app.task
def add(x: int, y: int) -> int:
    return x + y
