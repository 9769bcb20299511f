"""Transactions that are not the store's own: its callers', and those of transactional tasks.

    joining.py        enqueues on a caller's own connection
    autocommit.py     one in autocommit: what takes several statements gets a transaction there
    completing.py     the end of a job in a transaction that is not a worker's round
    tasks.py          the transaction of a transactional task; async_tasks.py that of a coroutine, inner.py that of
                      one which another runs in place
    added_headers.py  what such a task adds to its chord
    task_engines.py   the engines that those run on

Their statements are those of the rounds; what differs is whose connection runs them, and who commits.
"""
