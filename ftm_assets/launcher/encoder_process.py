"""Keeps the encoder process alive, and counts what it does."""

import os
from collections.abc import Iterator
from multiprocessing import get_context

from ftm_assets.launcher.encoding import Failed, Loaded, Progress, encoder_process
from ftm_assets.launcher.lanes import Waitable, ending, receive

_SPAWN = get_context("spawn")


class EncoderProcess:
    """The encoder process, started again when it ends.

    address: the socket at which lanes ask it
    loaded:  the model, None until it is loaded
    n_loads: how often a model was loaded; 1 unless the process was killed
    """

    def __init__(self, address: str, model: str, device: str) -> None:
        self.address = address
        self.loaded: Loaded | None = None
        self.n_loads = 0
        self._arguments = (os.getpid(), address, model, device)
        self._before = Progress()
        self._progress = Progress()
        self._start()

    def _start(self) -> None:
        self._pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=encoder_process, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def progress(self) -> Progress:
        """What this process and those before it have done; memory of this one."""
        before, now = self._before, self._progress
        return Progress(before.n_texts + now.n_texts, before.encoding_s + now.encoding_s, now.gpu_bytes)

    def waited(self) -> list[Waitable]:
        """What becomes ready, for `multiprocessing.connection.wait`, when `collect` has something to do."""
        return [self._pipe, self._process.sentinel]

    def collect(self) -> Iterator[str]:
        """What has gone wrong since the last call."""
        while (message := receive(self._pipe)) is not None:
            match message:
                case Progress():
                    self._progress = message
                case Loaded():
                    self.loaded = message
                    self.n_loads += 1
                case Failed():
                    yield message.why
        if not self._process.is_alive():
            yield f"the encoder process ended, {ending(self._process.exitcode or 0)}; it starts again"
            self._before, self._progress = self.progress, Progress()
            self._pipe.close()
            self._start()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
