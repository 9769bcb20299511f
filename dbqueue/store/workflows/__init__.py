"""Workflows in the database, each stage with its statements. A statement is the same on both but for some `words`.

    writing.py     written whole
    inputs.py      read by the jobs that take up the results of others
    success.py     released step by step
    failure.py     ended where they cannot go on
    overdue.py     let go where nothing did it
    changes.py     a job of a workflow is replaced, or adds to its chord
    operators.py   run again, or called off
    removing.py    forgotten and pruned
    reads.py       as they stand, for people

What a workflow is, before it is written, is in `dbqueue.workflows`.

Each operation is `Steps` (see `store.steps`), for it runs in whatever transaction ends a job: a worker's round, a
rescue, an operator's revoke.

Locks are taken in one order everywhere: rows that are STARTED first, then blocked ones, each kind by id within one
statement. Two rounds that complete headers of the same chords wait for each other at their bodies, and never in a
circle.
"""
