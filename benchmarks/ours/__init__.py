"""dbqueue as a contestant: the tasks, the worker's command, and a module for each row.

Settings are the defaults: durable commits, results kept, the worker's default log level.
"""
