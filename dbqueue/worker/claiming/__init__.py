"""The thread that talks to the jobs table, over a connection of its own.

    rounds.py             the thread: each round completes what has ended and claims what is wanted
    claims.py             what it claims next: claim_clock.py when, queue_choice.py from where
    held_jobs.py          jobs that wait for permits; rates.py what a worker's own rates allow
    neighbours.py         how many workers of a busy machine leave the jobs to others
    handover.py           what was claimed, on its way to the loop
    holding.py            what the worker holds: jobs, and outcomes that are not written yet
    settling.py           what the database refuses of a round; aside.py what somebody has locked
    strays.py             jobs that are STARTED and nobody's; absent.py what had no row
    lasting_session.py    the connection, and what is put right when it has broken
    reports.py            progress of running jobs
    upkeep.py             what each worker does for all: the dead's jobs, and what has expired
    doorbell.py           what wakes the thread

The loop asks for rounds, takes what was claimed, and waits for none of them.
"""
