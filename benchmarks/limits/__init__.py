"""What no worker can be faster than: the least that must be done for a job, with nothing around it."""
