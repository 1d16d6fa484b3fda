"""How runs are executed: Dagster's instance on pooled connections, logs of a run in its own files."""
