"""Encoders for the encoder process, which finds them by import path; what they encode they write to a file."""

import json
import os
import signal
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ftm_assets.analysis.vectors import unit_rows
from ftm_assets.encoder import EncoderMissing, batches
from ftm_assets_tests.fakes import FailingEncoder, HashEncoder

# The file, a line of JSON for each batch: the texts encoded together.
BATCHES = "FTM_TESTS_BATCHES"


@dataclass(frozen=True)
class Recording(HashEncoder):
    """As with a real model, a vector depends on what else is in its batch; each batch takes a while.

    batch_s: how long
    """

    batch_s: float = 0.0

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.empty((len(texts), 768), np.float32)
        for rows in batches(texts):
            batch = [texts[row] for row in rows]
            if BATCHES in os.environ:
                with Path(os.environ[BATCHES]).open("a") as file:
                    file.write(json.dumps(batch) + "\n")
            time.sleep(self.batch_s)
            vectors[rows] = super().encode(batch) + np.float32(zlib.crc32("".join(batch).encode()) / 2**40)
        return unit_rows(vectors)


class Pipelined(HashEncoder):
    """Like a GPU: a batch is handed over, and waited for later. Two texts a batch; what begins and ends is written."""

    def batches(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.arange(start, min(start + 2, len(texts))) for start in range(0, len(texts), 2)]

    def begin(self, texts: Sequence[str]) -> Callable[[], np.ndarray]:
        self._note(["begin", texts[0]])
        if "early" in texts:
            raise RuntimeError("the device takes nothing")

        def wait() -> np.ndarray:
            self._note(["end", texts[0]])
            if "late" in texts:
                raise RuntimeError("the device has failed")
            return self.encode(texts)

        return wait

    def _note(self, event: list[str]) -> None:
        with Path(os.environ[BATCHES]).open("a") as file:
            file.write(json.dumps(event) + "\n")


HASH = HashEncoder()


def slow() -> Recording:
    return Recording(batch_s=0.02)


def failing() -> FailingEncoder:
    return FailingEncoder(on="bad")


class Absent:
    """Cannot be loaded before the file is there."""

    name = "absent"

    @property
    def revision(self) -> str:
        if not Path(os.environ[BATCHES]).exists():
            raise EncoderMissing("the model is not there; put it there")
        return "1"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return HashEncoder().encode(texts)


class Misshapen(Absent):
    """One of somebody's own, which fails in a way of its own."""

    @property
    def revision(self) -> str:
        raise ArithmeticError("CUDA out of memory")


class Deadly(HashEncoder):
    """Dies over some texts, as a library with a fault would."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        if any("deadly" in text for text in texts):
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().encode(texts)


class Broken(HashEncoder):
    """Like a GPU whose memory a process has accessed wrongly: nothing goes any more, until a new process comes.

    It breaks over a certain text, once or, where the file is there, each time.
    """

    broken = False

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        mark = Path(os.environ[BATCHES])
        if any("breaks" in text for text in texts) and not mark.with_suffix(".broke").exists():
            type(self).broken = True
            if not mark.exists():
                mark.with_suffix(".broke").touch()
        if self.broken:
            raise RuntimeError("illegal memory access")
        return super().encode(texts)


class Hanging(HashEncoder):
    """Never comes back from some texts."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        if any("endless" in text for text in texts):
            time.sleep(600)
        return super().encode(texts)


class TooLarge(Absent):
    """Its process is killed while it loads, as by the kernel for want of memory."""

    @property
    def revision(self) -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return ""
