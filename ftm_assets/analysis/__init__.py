"""HOW it is computed: pure functions on arrays and frozen dataclasses; no Dagster, no database."""
