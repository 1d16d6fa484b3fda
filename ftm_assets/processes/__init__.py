"""Processes that talk to each other and are kept alive: supervision, back-off, connections."""
