"""Calls from CSV files."""
