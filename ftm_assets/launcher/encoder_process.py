"""Keeps the encoder process alive, and counts what it does."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.process import BaseProcess

from ftm_assets.launcher.encoding import DIGEST_SIZE, LOADING, Failed, Loaded, Past, Progress, encoder_process
from ftm_assets.launcher.lanes import Waitable, ending, receive
from ftm_assets.launcher.pauses import Pauses

MAX_DEATHS = 3
_SPAWN = get_context("spawn")


class EncoderProcess:
    """The encoder process, started again when it ends.

    It says every second that it lives, but for a batch or the load of a model; who is silent for longer is killed. What
    it dies of is remembered: a request over which it died three times is refused by the next process, and so is
    every request after it died three times over its model, for a minute. Whoever asked is told, and others go on.

    address: the socket at which lanes ask it
    loaded:  the model, None until it is loaded
    n_loads: how often a model was loaded; 1 unless the process was killed
    """

    silence_s = 600.0
    loading_s = 3600.0  # It may come from a hub.

    def __init__(self, address: str, model: str, device: str) -> None:
        self.address = address
        self.loaded: Loaded | None = None
        self.n_loads = 0
        self._arguments = (os.getpid(), address, model, device)
        self._before = Progress()
        self._progress = Progress()
        # Memory that outlives the process which writes to it, however that ends.
        self._over = _SPAWN.RawArray("c", DIGEST_SIZE + 1)
        self._deaths: Counter[bytes] = Counter()
        self._last_words = ""
        self._pauses = Pauses()
        self._start()

    def _start(self) -> None:
        deadly = frozenset(request for request, n in self._deaths.items() if n >= MAX_DEATHS and request != LOADING)
        unloadable = self._last_words if self._deaths[LOADING] >= MAX_DEATHS else ""
        self._pipe, theirs = _SPAWN.Pipe()
        arguments = (theirs, self._over, *self._arguments, Past(deadly, unloadable))
        self._process: BaseProcess = _SPAWN.Process(target=encoder_process, args=arguments, daemon=True)
        self._process.start()
        self._heard_at = time.monotonic()
        self._last_failure = ""
        self._pauses.started()
        self._start_at: float | None = None
        theirs.close()

    @property
    def progress(self) -> Progress:
        """What this process and those before it have done; memory of this one."""
        before, now = self._before, self._progress
        return Progress(before.n_texts + now.n_texts, before.encoding_s + now.encoding_s, now.gpu_bytes)

    def waited(self) -> list[Waitable]:
        """What becomes ready, for `multiprocessing.connection.wait`, when `collect` has something to do."""
        return [self._pipe, self._process.sentinel] if self._start_at is None else []

    def collect(self) -> Iterator[str]:
        """What has gone wrong since the last call."""
        if self._start_at is not None:
            if time.monotonic() >= self._start_at:
                self._start()
            return
        has_ended = not self._process.is_alive()  # Asked first: what it said last is heard, too.
        while (message := receive(self._pipe)) is not None:
            self._heard_at = time.monotonic()
            match message:
                case Progress():
                    self._progress = message
                    if message.n_texts:
                        del self._deaths[LOADING]
                case Loaded():
                    self.loaded = message
                    self.n_loads += 1
                case Failed():
                    self._last_failure = message.why
                    yield message.why
        if has_ended:
            yield f"{self._bury()}; it starts again"
        elif time.monotonic() - self._heard_at > (self.loading_s if self._over.value == LOADING else self.silence_s):
            self._heard_at = time.monotonic()
            self._process.kill()
            yield "the encoder process hangs and is killed"

    def _bury(self) -> str:
        self._pipe.close()
        self._before, self._progress = self.progress, Progress()
        self._start_at = time.monotonic() + self._pauses.ended()
        over, self._over.value = self._over.value, b""
        if over:
            self._deaths[over] += 1
        doing = " while it loaded or tried its model" if over == LOADING else ""
        self._last_words = f"the encoder process ended{doing}, {ending(self._process.exitcode or 0)}"
        if self._last_failure:
            self._last_words += f", after: {self._last_failure}"
        return self._last_words

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
