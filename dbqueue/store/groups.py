"""Groups that a program has saved: which results belong to one, under its id."""

from __future__ import annotations

import sqlalchemy as sa

from dbqueue.jobs import storable
from dbqueue.store.base import Store
from dbqueue.store.changing import changed
from dbqueue.store.reading import reading
from dbqueue.store.tables import Json, groups


def save(store: Store, group_id: str, text: str) -> None:
    """Write down the group, as JSON text; in the place of what was saved under the id before."""
    insert = store.insert(groups)
    value = sa.cast(sa.bindparam("value", text, type_=sa.Text), Json)
    statement = insert.values(id=group_id, result=value).on_conflict_do_update(
        index_elements=[groups.c.id], set_={"result": insert.excluded.result}
    )
    changed(store, lambda connection, _: connection.execute(statement))


def restore(store: Store, group_id: str) -> str | None:
    """The JSON text of the group; None where none is saved under the id."""
    query = sa.select(sa.cast(groups.c.result, sa.Text)).where(groups.c.id.in_(storable([group_id])))
    with reading(store) as connection:
        found: str | None = connection.scalar(query)
        return found


def delete(store: Store, group_id: str) -> bool:
    """Forget the group; False where there is none."""
    change = sa.delete(groups).where(groups.c.id.in_(storable([group_id])))
    return changed(store, lambda connection, _: connection.execute(change).rowcount > 0)
