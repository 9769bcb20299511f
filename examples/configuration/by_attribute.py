"""Settings one by one."""

from dbqueue import DBQueue

app = DBQueue("cele")
app.conf.broker_url = "sqlite:///cele.sqlite3"
app.conf.task_serializer = "json"
app.conf.result_serializer = "json"
app.conf.accept_content = ["json"]
app.conf.timezone = "Europe/Oslo"
app.conf.enable_utc = True
app.conf.task_default_queue = "oslo"


@app.task
def add(x: int, y: int) -> int:
    return x + y
