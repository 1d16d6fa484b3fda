"""Keeps the encoder process running, and counts what it does."""

from collections import Counter
from collections.abc import Iterator

from ftm_assets.launcher.encoder_server import (
    DIGEST_SIZE,
    LOADING,
    CrashHistory,
    EncoderFailure,
    EncoderProgress,
    ModelLoaded,
    encoder_process,
)
from ftm_assets.processes.supervised_process import SPAWN, SpawnedProcess
from ftm_assets.settings import MODEL_KEYS, Precision

MAX_CRASHES = 3


class EncoderProcess(SpawnedProcess):
    """The encoder process, started again when it ends.

    It sends a heartbeat every second, except while it encodes a batch or loads the model. It is killed if it is silent
    for longer than its timeout. What it crashes over is remembered: after three crashes over a request the next
    process refuses that request, and after three crashes over the model it refuses every request for a minute.
    Clients get the reason, and other requests go on. (Decision 46.)

    address: the socket at which lanes ask it
    loaded:  the model, None until it is loaded
    n_loads: how often a model was loaded; 1 unless the process was killed
    """

    without = MODEL_KEYS
    load_timeout_s = 3600.0  # The model may come from a hub.

    def __init__(self, address: str, model: str, device: str, precision: Precision = "auto") -> None:
        self.address = address
        self.loaded: ModelLoaded | None = None
        self.n_loads = 0
        self._model = model
        self._device = device
        self._precision = precision
        self._before = EncoderProgress()
        self._progress = EncoderProgress()
        # Memory that outlives the process which writes to it, however that ends.
        self._in_progress = SPAWN.RawArray("c", DIGEST_SIZE + 1)
        self._crashes: Counter[bytes] = Counter()
        self._last_crash = ""
        super().__init__("encoder process", encoder_process)

    def arguments(self) -> tuple[object, ...]:
        """See `SpawnedProcess`."""
        poisoned = (request for request, n in self._crashes.items() if n >= MAX_CRASHES and request != LOADING)
        history = CrashHistory(
            poisoned_requests=frozenset(poisoned),
            load_failure=self._last_crash if self._crashes[LOADING] >= MAX_CRASHES else "",
        )
        self._last_failure = ""
        return self._in_progress, self.parent, self.address, self._model, self._device, self._precision, history

    @property
    def progress(self) -> EncoderProgress:
        """What this process and those before it have done; memory of this one."""
        return EncoderProgress(
            n_texts=self._before.n_texts + self._progress.n_texts,
            encoding_s=self._before.encoding_s + self._progress.encoding_s,
            gpu_bytes=self._progress.gpu_bytes,
        )

    def on_message(self, message: object) -> Iterator[str]:
        """See `SpawnedProcess`."""
        match message:
            case EncoderProgress():
                self._progress = message
                if message.n_texts:
                    del self._crashes[LOADING]
            case ModelLoaded():
                self.loaded = message
                self.n_loads += 1
            case EncoderFailure():
                self._last_failure = message.reason
                yield message.reason

    def current_timeout_s(self) -> float:
        """See `SpawnedProcess`."""
        return self.load_timeout_s if self._in_progress.value == LOADING else self.timeout_s

    def describe_exit(self, how: str) -> str:
        """See `SpawnedProcess`."""
        self._before, self._progress = self.progress, EncoderProgress()
        in_progress, self._in_progress.value = self._in_progress.value, b""
        if in_progress:
            self._crashes[in_progress] += 1
        doing = " while it loaded or tried its model" if in_progress == LOADING else ""
        self._last_crash = f"the encoder process ended{doing}, {how}"
        if self._last_failure:
            self._last_crash += f", after: {self._last_failure}"
        return self._last_crash
