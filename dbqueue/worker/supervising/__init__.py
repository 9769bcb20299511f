"""The worker's main thread: one loop over its children, signals and clocks, which never waits for the database.

    supervisor.py    the loop; opening.py what it needs before it begins, wakeup.py what wakes it
    shutdown.py      how it ends: warmly, softly, coldly
    crew.py          its children: born, replaced, counted; children.py one of them, autoscale.py how many
    dispatch.py      which job goes to which child; by_task.py what is remembered of each task
    reception.py     what becomes of a job before a child gets it
    silence.py       how long a child has answered nothing
    limits.py        runs that take too long; revoker.py those that were revoked
    losses.py        the jobs of a child that has died
    fence.py         ends runs that may be another worker's
    interpreter.py   settings of the interpreter for a process with threads

The other two threads tell it what they learn of the database, and it tells them what it wants.
"""
