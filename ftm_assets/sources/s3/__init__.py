"""Calls from files in an S3 bucket."""
