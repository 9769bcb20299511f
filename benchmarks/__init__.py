"""How fast dbqueue is beside its peers, in one run on one machine: `python -m benchmarks`.

Absolute figures move from machine to machine, and from minute to minute on a shared one. What
counts is the ratio to a peer that was measured in the same run, in turns with it.
"""
