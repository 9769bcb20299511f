"""The worker: a supervisor that never blocks, and children that only run.

    supervising/    the main thread's loop: children, signals, clocks; it never calls the database
    claiming/       the thread that completes and claims, over a connection of its own
    watch.py        the thread that beats and listens, over a second connection
    running/        in a child: runs a job and makes its outcome; knows no database
    control/        commands of an operator, and their replies
    events.py       what monitors are told
    beat/           periodic calls, in a worker or in a process of their own
    config.py       what a worker is told when it starts
    banner.py, log.py   what a person sees

Each room's own list is in its `__init__.py`. The application reaches the worker as `resolve(name)`, which gives a task
by its registered name: nothing here imports by a name found in a row.
"""
