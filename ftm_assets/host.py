"""The cores and the memory that this process may use."""

import os
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def cores_and_memory(container: Path = _CGROUP) -> tuple[int, int]:
    """Number of cores and bytes of memory: of the machine, or of the container if that has limits.

    container: folder of the limits of a control group (version 2)
    """
    n_cores = len(os.sched_getaffinity(0))
    n_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # Without a limit the file says `max`.
        quota, period = map(int, (container / "cpu.max").read_text().split())
        n_cores = min(n_cores, max(1, quota // period))
    with suppress(OSError, ValueError):
        n_bytes = min(n_bytes, int((container / "memory.max").read_text()))
    return n_cores, n_bytes
