"""Who executes runs: a launcher for one GPU with its worker, and a Dagster instance that costs them little."""
