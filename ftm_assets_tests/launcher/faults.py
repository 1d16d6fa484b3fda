"""Orders that a test gives to whoever comes across a firm's sentences: files named after the firm, read in any process.

An order is `hold` (wait until it is withdrawn), `segfault`, `leak` or `raise`. Who came to a firm is noted beside it.
"""

import os
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

_FIRM = re.compile(r"\bF\d{4}\b", re.IGNORECASE)
_LEAKED: list[bytearray] = []


def folder() -> Path:
    return Path(os.environ["FTM_HOME"]) / "orders"


def obey(texts: Sequence[str], where: str) -> None:
    """Note that this process came to the firms of the texts, and do what it finds ordered for `where`."""
    for name in sorted({found[0].upper() for text in texts if (found := _FIRM.search(text))}):
        with (folder() / f"{name}.{where}.came").open("a") as came:
            came.write(f"{os.getpid()}\n")
        order = folder() / f"{name}.{where}"
        while order.exists():
            _do(order.read_text())


def _do(order: str) -> None:
    match order:
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "leak":
            _LEAKED.append(bytearray(os.urandom(1 << 20) * 32))
        case "raise":
            raise RuntimeError("as it was ordered")
    time.sleep(0.02)
