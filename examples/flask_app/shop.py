"""A small shop on Flask: an order and the job that sends its receipt are one transaction.

dbqueue -A shop migrate                     the queue's tables
flask --app shop run                        the shop
dbqueue -A shop worker --loglevel=info      the worker, in another terminal

curl -X POST localhost:5000/orders -H 'Content-Type: application/json' -d '{"item": "tea", "price": 9}'
"""

import os

from flask import Flask, request
from flask.typing import ResponseReturnValue
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import dbqueue

URL = os.environ.get("SHOP_DATABASE", "sqlite:///shop.sqlite3")
WALLET = 100

app = Flask(__name__)
queue = dbqueue.DBQueue("shop", broker=URL)
engine = create_engine(URL)


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    price: Mapped[int]
    receipt: Mapped[str | None]


Base.metadata.create_all(engine)


class PaymentRefused(Exception):
    pass


@queue.task
def send_receipt(order_id: int) -> str:
    """Runs in a worker, and only ever for an order that was committed."""
    with Session(engine) as session, session.begin():
        order = session.get_one(Order, order_id)
        order.receipt = f"1 x {order.item}, {order.price} euros: paid, thank you!"
        return order.receipt


@app.post("/orders")
def create_order() -> ResponseReturnValue:
    with Session(engine) as session, session.begin(), dbqueue.using(session):
        order = Order(item=request.json["item"], price=request.json["price"])
        session.add(order)
        session.flush()  # gives the order its number
        result = send_receipt.delay(order.id)  # in this transaction: no worker sees it yet
        pay(order)  # raises: the block rolls back, and neither order nor job was ever there
        return {"order": order.id, "job": result.id}, 201


@app.errorhandler(PaymentRefused)
def refused(error: PaymentRefused) -> ResponseReturnValue:
    return {"error": str(error)}, 402


@app.get("/orders")
def list_orders() -> ResponseReturnValue:
    with Session(engine) as session:
        return [{"order": order.id, "receipt": order.receipt} for order in session.scalars(select(Order))]


def pay(order: Order) -> None:
    if order.price > WALLET:
        raise PaymentRefused(f"{order.price} euros are more than your wallet holds")
