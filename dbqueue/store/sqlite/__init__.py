"""The store on SQLite: what only it has.

    store.py, work_session.py, watch_session.py   what `base` and `sessions` ask of every database
    driver.py     transactions, and the driver's errors turned into dbqueue's
    files.py      the file that a URL names, and whether it is still there
    sql.py        the statements
    held.py       jobs that wait for permits
    pruning.py    deleting what has ended
    looks.py      what nobody would see to: jobs of workers whose row is gone, and overdue ones
    liveness.py   who is alive, told by the kernel

What every database does in the same way is in the folder above.
"""
