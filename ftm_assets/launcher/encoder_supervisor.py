"""Keeps the encoder process alive, and counts what it does."""

from collections import Counter
from collections.abc import Iterator

from ftm_assets.launcher.encoder_server import DIGEST_SIZE, LOADING, Failed, Loaded, Past, Progress, encoder_process
from ftm_assets.processes.supervised_process import SPAWN, SupervisedProcess
from ftm_assets.settings import MODEL_KEYS, Precision

MAX_DEATHS = 3


class EncoderProcess(SupervisedProcess):
    """The encoder process, started again when it ends.

    It says every second that it lives, but for a batch or the load of a model; who is silent for longer is killed. What
    it dies of is remembered: a request over which it died three times is refused by the next process, and so is
    every request after it died three times over its model, for a minute. Whoever asked is told, and others go on.

    address: the socket at which lanes ask it
    loaded:  the model, None until it is loaded
    n_loads: how often a model was loaded; 1 unless the process was killed
    """

    without = MODEL_KEYS
    loading_s = 3600.0  # It may come from a hub.

    def __init__(self, address: str, model: str, device: str, precision: Precision = "auto") -> None:
        self.address = address
        self.loaded: Loaded | None = None
        self.n_loads = 0
        self._model = (model, device, precision)
        self._before = Progress()
        self._progress = Progress()
        # Memory that outlives the process which writes to it, however that ends.
        self._over = SPAWN.RawArray("c", DIGEST_SIZE + 1)
        self._deaths: Counter[bytes] = Counter()
        self._last_words = ""
        super().__init__("encoder process", encoder_process)

    def arguments(self) -> tuple[object, ...]:
        """See `SupervisedProcess`."""
        deadly = frozenset(request for request, n in self._deaths.items() if n >= MAX_DEATHS and request != LOADING)
        unloadable = self._last_words if self._deaths[LOADING] >= MAX_DEATHS else ""
        self._last_failure = ""
        return (self._over, self.parent, self.address, *self._model, Past(deadly, unloadable))

    @property
    def progress(self) -> Progress:
        """What this process and those before it have done; memory of this one."""
        before, now = self._before, self._progress
        return Progress(before.n_texts + now.n_texts, before.encoding_s + now.encoding_s, now.gpu_bytes)

    def hear(self, message: object) -> Iterator[str]:
        """See `SupervisedProcess`."""
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

    def patience_s(self) -> float:
        """See `SupervisedProcess`."""
        return self.loading_s if self._over.value == LOADING else self.silence_s

    def buried(self, how: str) -> str:
        """See `SupervisedProcess`."""
        self._before, self._progress = self.progress, Progress()
        over, self._over.value = self._over.value, b""
        if over:
            self._deaths[over] += 1
        doing = " while it loaded or tried its model" if over == LOADING else ""
        self._last_words = f"the encoder process ended{doing}, {how}"
        if self._last_failure:
            self._last_words += f", after: {self._last_failure}"
        return self._last_words
