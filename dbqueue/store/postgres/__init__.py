"""The store on PostgreSQL: what only it has.

    store.py, work_session.py, watch_session.py   what `base` and `sessions` ask of every database
    driver.py     psycopg's connections, and its errors turned into dbqueue's
    sql.py        the hot statements, and why each is written as it is
    outcomes.py   how outcomes are written; free_rows.py which of them need not wait for somebody's lock
    held.py       jobs that wait for permits
    arrays.py     columns as text, for `unnest`
    copying.py    many jobs at once, by COPY
    liveness.py   who is dead, where the server's clock may step
    looks.py      what nobody would see to: jobs of workers whose row is gone, and overdue ones
    rescue.py     what becomes of dead workers' jobs
    floors.py     where claims begin to look while dead entries stand at the head of the index
    plans.py      plans that have gone bad
    pruning.py    deleting what has ended, some pages at a time
    pool_connection.py   the connections of callers: one job's INSERT and the NOTIFY behind it in one message
    pooler.py     connections through a pooler in transaction mode
    health.py, roles.py   for `dbqueue doctor`, and for least privilege

What every database does in the same way is in the folder above.
"""
