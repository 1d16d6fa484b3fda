"""Reading: search, the way from theme to sentence and back, progress of quarters, reports."""
