"""A small shop on FastAPI: an order and the job that sends its receipt are one transaction.

dbqueue -A shop migrate                     the queue's tables
uvicorn shop:app                            the shop
dbqueue -A shop worker --loglevel=info      the worker, in another terminal

curl -X POST localhost:8000/orders -H 'Content-Type: application/json' -d '{"item": "tea", "price": 9}'
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import dbqueue

URL = os.environ.get("SHOP_DATABASE", "sqlite:///shop.sqlite3")
WALLET = 100

queue = dbqueue.DBQueue("shop", broker=URL)
# psycopg serves both kinds of engine; SQLite's asynchronous driver is aiosqlite.
engine = create_async_engine(URL.replace("sqlite://", "sqlite+aiosqlite://"))


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    price: Mapped[int]
    receipt: Mapped[str | None]


class NewOrder(BaseModel):
    item: str
    price: int


@queue.task
async def send_receipt(order_id: int) -> str:
    """Runs in a worker, and only ever for an order that was committed."""
    async with AsyncSession(engine) as session, session.begin():
        order = await session.get_one(Order, order_id)
        order.receipt = f"1 x {order.item}, {order.price} euros: paid, thank you!"
        return order.receipt


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


async def transaction() -> AsyncIterator[AsyncSession]:
    """The request's session: commits if the request succeeds, and rolls back if it raises."""
    async with AsyncSession(engine) as session, session.begin():
        yield session


Transaction = Annotated[AsyncSession, Depends(transaction, scope="function")]


@app.post("/orders", status_code=201)
async def create_order(new: NewOrder, session: Transaction) -> dict[str, Any]:
    order = Order(item=new.item, price=new.price)
    session.add(order)
    await session.flush()  # gives the order its number
    with dbqueue.using(session):
        result = await send_receipt.adelay(order.id)  # in this transaction: no worker sees it yet
    if order.price > WALLET:  # the transaction rolls back: neither order nor job was ever there
        raise HTTPException(402, f"{order.price} euros are more than your wallet holds")
    return {"order": order.id, "job": result.id}


@app.get("/orders")
async def list_orders(session: Transaction) -> list[dict[str, Any]]:
    return [{"order": order.id, "receipt": order.receipt} for order in await session.scalars(select(Order))]
