"""Cores and memory that this process may use."""

import os
from contextlib import suppress
from pathlib import Path

_CONTAINER = Path("/sys/fs/cgroup")


def cores_and_memory(container: Path = _CONTAINER) -> tuple[int, int]:
    """Cores and bytes of memory: of the machine, or of the container that this process is in.

    container: where Linux keeps the limits of a control group (version 2)
    """
    n_cores = len(os.sched_getaffinity(0))
    n_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # No limit reads as `max`.
        quota, period = map(int, (container / "cpu.max").read_text().split())
        n_cores = min(n_cores, max(1, quota // period))
    with suppress(OSError, ValueError):
        n_bytes = min(n_bytes, int((container / "memory.max").read_text()))
    return n_cores, n_bytes
