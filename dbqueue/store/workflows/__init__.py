"""Workflows in the database, the same for every one.

    lifecycle.py   written whole, released step by step, ended where they cannot go on
    changes.py     a job of a workflow is replaced, or adds to its chord
    reads.py       a workflow as it stands, for people
    sql.py         the statements

What a workflow is, before it is written, is in `dbqueue.workflows`.
"""
