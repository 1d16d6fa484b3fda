"""Keeps the language model's client process alive, and adds up what it has done over its restarts."""

from collections.abc import Iterator

from ftm_assets.llm.shared_client import Failed, model_process
from ftm_assets.llm.stats import ClientStats
from ftm_assets.processes.supervised_process import SpawnedProcess

_BAD_STATES = ("down", "misconfigured")


class ModelProcess(SpawnedProcess):
    """The client process of the language model, started again when it ends.

    address: the socket where it listens
    """

    timeout_s = 60.0

    def __init__(self, address: str) -> None:
        self.address = address
        self._before = ClientStats()
        self._progress = ClientStats()
        self._last_warning = ""
        super().__init__("language model's client process", model_process)

    def arguments(self) -> tuple[object, ...]:
        """See `SpawnedProcess`."""
        return (self.parent, self.address)

    @property
    def progress(self) -> ClientStats:
        """What this process and the ones before it have done."""
        return self._before.followed_by(self._progress)

    def on_message(self, message: object) -> Iterator[str]:
        """See `SpawnedProcess`."""
        match message:
            case ClientStats():
                self._progress = message
                warning = f"language model {message.state}: {message.why}" if message.state in _BAD_STATES else ""
                if warning and warning != self._last_warning:
                    yield warning
                self._last_warning = warning
            case Failed():
                yield message.reason

    def describe_exit(self, how: str) -> str:
        """See `SpawnedProcess`."""
        self._before, self._progress = self.progress, ClientStats()
        return f"the {self.name} ended, {how}"
