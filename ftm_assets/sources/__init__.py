"""The OUTSIDE: where transcripts come from."""
