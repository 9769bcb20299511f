"""Additions for other programs: nothing here is imported unless it is asked for."""
