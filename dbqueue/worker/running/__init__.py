"""One job, in a child: from its row to its outcome. Nothing here knows the jobs table.

    executor.py      runs a job; runnable.py what of a task it calls, own_loop.py where coroutines run
    beginning.py     from its row to a call; inputs.py what its predecessors left for it
    ended.py         what a call gave or raised, as a value
    telling.py       hooks and signals; own_end.py ends that a task has written itself
    going_back.py    retries and rejects
    transacting.py   ends that are committed with what the task wrote
    lost_runs.py     what becomes of a job whose run was lost

The pools (`dbqueue/pools`) call it, and send what came of it.
"""
