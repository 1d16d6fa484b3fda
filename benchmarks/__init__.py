"""Claims of speed, each one command that prints a table with its comparison made in the same run."""
