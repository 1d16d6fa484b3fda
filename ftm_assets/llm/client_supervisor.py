"""Keeps the language model's client process alive, and counts what it does."""

from collections.abc import Iterator
from dataclasses import replace

from ftm_assets.llm.client import Progress
from ftm_assets.llm.shared_client import Failed, model_process
from ftm_assets.processes.supervised_process import SpawnedProcess

_ADDED = "n_questions n_reused n_requests n_replies n_unpriced n_unanswered tokens_in tokens_out dollars"
_BAD = ("down", "misconfigured")


class ModelProcess(SpawnedProcess):
    """The client process of the language model, started again when it ends.

    address: the socket at which lanes ask it
    """

    timeout_s = 60.0

    def __init__(self, address: str) -> None:
        self.address = address
        self._before = Progress()
        self._progress = Progress()
        self._said = ""
        super().__init__("language model's client process", model_process)

    def arguments(self) -> tuple[object, ...]:
        """See `SpawnedProcess`."""
        return (self.parent, self.address)

    @property
    def progress(self) -> Progress:
        """What this process and those before it have done; what is under way in this one."""
        sums = {name: getattr(self._before, name) + getattr(self._progress, name) for name in _ADDED.split()}
        return replace(self._progress, **sums)

    def on_message(self, message: object) -> Iterator[str]:
        """See `SpawnedProcess`."""
        match message:
            case Progress():
                self._progress = message
                said = f"language model {message.state}: {message.why}" if message.state in _BAD else ""
                if said and said != self._said:
                    yield said
                self._said = said
            case Failed():
                yield message.why

    def describe_exit(self, how: str) -> str:
        """See `SpawnedProcess`."""
        self._before, self._progress = replace(self.progress, n_under_way=0), Progress()
        return f"the {self.name} ended, {how}"
