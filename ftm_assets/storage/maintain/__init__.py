"""Maintenance: search indexes, archiving, deletion."""
