"""A backfill brings a quarter up to date: `plan` decides, `in_process` and `by_daemon` carry it out."""
