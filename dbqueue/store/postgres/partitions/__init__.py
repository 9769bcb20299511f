"""The table of jobs in parts by time, as an option: what ended long ago is dropped at once, not row by row.

    periods     days, weeks or months, and the ids that belong to each
    catalog     what partitions there are, and whether there are any
    making      the partitions of the near future
    retiring    those of the past: looked through, taken out, dropped
    switching   from a plain table to a partitioned one, and back (`dbqueue migrate --partition`)
    upkeep      what a worker does of this, a portion at a time

The key is `id`. Ids that dbqueue makes are UUIDs of version 7, whose text sorts by time; so `id` alone stays the
primary key, and what is asked by id reads one partition. All other ids are in the DEFAULT partition.

    dbqueue_jobs_before         all that was there when the table was partitioned: the former table itself
    dbqueue_jobs_day_20261126   the ids of that day (..._week_..., ..._month_...); or of its rest
    dbqueue_jobs_default        the ids of callers, and those for whose time nobody had made a partition

All statements name the partitioned table, but for those that look through one partition to delete.
"""
