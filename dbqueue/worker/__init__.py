"""The worker: a supervisor that never blocks, and children that only run.

    supervisor.py   the one loop: children, signals, clocks; never calls the database
    shutdown.py     how it ends: warmly, softly, coldly
    wakeup.py       what wakes the loop: other threads, signals
    fence.py        ends runs that may be another worker's
    losses.py       what becomes of a dead child's jobs
    dispatch.py     which job goes to which child, how many to claim
    children.py     a child as the supervisor sees it
    rounds.py       the thread that completes and claims, over one connection
    handover.py     what was claimed, on its way to the loop
    lasting_session.py, holding.py   that connection when it breaks, and what is held over it
    settling.py     what the database refuses of a round; aside.py what somebody has locked
    strays.py       what it holds no more and is STARTED all the same; absent.py what had no row
    claims.py       what it claims next: claim_clock.py when, queue_choice.py from where,
                    held_jobs.py what waits for permits
    watch.py        the thread that beats and listens, over a second connection
    desk.py         commands in and replies out, between that thread and the loop
    control.py      the registry of commands; control_commands.py and inspect_commands.py are ours
    revoker.py      ends jobs that were revoked here
    neighbours.py   how many workers of a busy machine leave the jobs to others
    autoscale.py    how many pool processes there are to be
    executor.py     in a child: runs a job and makes its outcome; knows no database
    own_loop.py     the event loop of a thread that runs jobs
    banner.py, log.py   what a person sees

The application reaches the worker as `resolve(name)`, which gives a task by its registered name:
nothing here imports by a name found in a row.
"""
