"""The two web applications: an order and its job are one transaction, on both databases."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.running import Example, example

CLIENTS = {
    "flask_app": """
from shop import app
client = app.test_client()
def post(order):
    answer = client.post("/orders", json=order)
    return answer.status_code, answer.json
def orders():
    return client.get("/orders").json
""",
    "fastapi_app": """
from fastapi.testclient import TestClient
from shop import app
client = TestClient(app).__enter__()
def post(order):
    answer = client.post("/orders", json=order)
    return answer.status_code, answer.json()
def orders():
    return client.get("/orders").json()
""",
}

PROGRAM = """
import json
from shop import queue
paid = post({"item": "tea", "price": 9})
refused = post({"item": "teapot", "price": 900})
value = queue.AsyncResult(paid[1]["job"]).get(timeout=30)
print(json.dumps({"paid": paid[0], "refused": refused[0], "value": value, "orders": orders()}))
"""

COUNT = """
import json, sqlalchemy as sa
from shop import URL
with sa.create_engine(URL).connect() as connection:
    ask = lambda table: connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar()
    print(json.dumps([ask("orders"), ask("dbqueue_jobs")]))
"""


@pytest.fixture(params=list(CLIENTS))
def shop(request: pytest.FixtureRequest, tmp_path: Path, database_url: str) -> Example:
    return example(request.param, tmp_path, database_url, SHOP_DATABASE=database_url)


def test_an_order_is_paid_and_its_receipt_is_sent(shop: Example) -> None:
    receipt = "1 x tea, 9 euros: paid, thank you!"
    with shop.worker("shop", "--concurrency=1"):
        seen = shop.value(CLIENTS[shop.folder.name] + PROGRAM)
    assert seen == {
        "paid": 201,
        "refused": 402,
        "value": receipt,
        "orders": [{"order": 1, "receipt": receipt}],
    }
    assert shop.value(COUNT) == [1, 1]


def test_a_refused_order_leaves_nothing(shop: Example) -> None:
    program = CLIENTS[shop.folder.name] + "import json; print(json.dumps(post({'item': 'teapot', 'price': 900})[0]))"
    assert shop.value(program) == 402
    assert shop.value(COUNT) == [0, 0]
