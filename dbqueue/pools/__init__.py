"""Where tasks run: processes, threads, an event loop, or in place.

A pool is children of one supervisor. Every child, of whatever kind, speaks the same small protocol
over a socket (`wire`): it is sent jobs, runs as many at a time as it has slots, and answers each
with its outcome. How the slots run them is the kind of the pool: `prefork` (one slot in each of
many processes), `threads`, `aio` (many slots in one process) and `solo` (one slot, in place).
Functions beside an event loop run in its threads (`loop_threads`).
"""
