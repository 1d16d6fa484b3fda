import os
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from devtools.processes import wait_for
from ftm_assets.launcher.encoder_supervisor import EncoderProcess
from ftm_assets.processes.supervised_process import SupervisedProcess

SECRETS = ("FTM_LLM_API_KEY", "XAI_API_KEY")


def tell_secrets(worker: Connection) -> None:
    """Main function of a process: say what it has of them."""
    worker.send([os.environ.get(name) for name in SECRETS])
    worker.recv()


class Telling(SupervisedProcess):
    """A process that needs no secret, as the encoder's."""

    without = EncoderProcess.without

    def __init__(self) -> None:
        self.told: object = None
        super().__init__("telling process", tell_secrets)

    def arguments(self) -> tuple[object, ...]:
        return ()

    def hear(self, message: object) -> Iterator[str]:
        self.told = message
        yield from ()


def test_the_encoder_process_has_no_key_of_the_language_model(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "sesame")
    kept = Telling()
    try:
        wait_for(lambda: [list(kept.collect()), kept.told][1], 60)
    finally:
        kept.close()
    assert kept.told == ["", ""]
    assert os.environ["FTM_LLM_API_KEY"] == "sesame"
