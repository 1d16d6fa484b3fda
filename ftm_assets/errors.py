"""The root of the errors that a person can mend.

Each names the value, the place and the next step; a specific one lives next to the code that raises it. What only a
programmer can mend, such as arrays of different lengths, stays a ValueError or TypeError.
"""


class FtmError(Exception):
    """Something a person can mend: the message says what, where and how."""
