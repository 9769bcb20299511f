"""The application of the demo: five tasks, as a program would have them."""

import time
from typing import Any

from dbqueue import DBQueue

app = DBQueue("demo")  # no URL: jobs go to dbqueue.sqlite3 in the current folder


class CardDeclined(Exception):
    pass


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def write_report(month: str) -> str:
    time.sleep(3)
    return f"{month}: 42 pages"


@app.task(bind=True, autoretry_for=(ConnectionError,), retry_kwargs={"countdown": 1.5})
def fetch_rate(self: Any, currency: str) -> float:
    time.sleep(0.4)
    if self.request.retries < 1:
        raise ConnectionError("the bank does not answer")
    return {"NOK": 11.8, "JPY": 171.2}[currency]


@app.task
def charge(card: str, euros: int) -> str:
    time.sleep(0.8)
    raise CardDeclined(f"card {card[-4:]} does not cover {euros} euros")


@app.task
def remind(whom: str) -> str:
    return f"{whom}, your tea is ready"
