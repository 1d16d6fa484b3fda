"""The root of every error this package raises on purpose.

Each error names the value, the place and the next step; a specific one lives beside the code that raises it.
"""


class FtmError(Exception):
    """Something a person can mend: the message says what, where and how."""
