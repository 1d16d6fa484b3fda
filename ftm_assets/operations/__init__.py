"""What the commands carry out: backfills in this process or by Dagster's daemon, and the processes behind the UI."""
