"""A task whose result nobody asks for: the job is kept, its value is not."""

from dbqueue import DBQueue

app = DBQueue("cele", broker="sqlite:///cele.sqlite3")


@app.task(ignore_result=True)
def log_visit(page: str) -> str:
    return f"somebody looked at {page}"


@app.task
def count_words(text: str) -> int:
    """Its result is kept, unless a call says `apply_async(..., ignore_result=True)`."""
    return len(text.split())
