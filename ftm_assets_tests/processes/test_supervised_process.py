import os
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from devtools.processes import wait_for
from ftm_assets.launcher.encoder_supervisor import EncoderProcess
from ftm_assets.processes.supervised_process import SpawnedProcess

SECRETS = ("FTM_LLM_API_KEY", "XAI_API_KEY")


def send_secrets(worker: Connection) -> None:
    """Main function of a process: send the secrets that it has."""
    worker.send([os.environ.get(name) for name in SECRETS])
    worker.recv()


class Reporting(SpawnedProcess):
    """A process that needs no secret, as the encoder's."""

    without = EncoderProcess.without

    def __init__(self) -> None:
        self.secrets: object = None
        super().__init__("reporting process", send_secrets)

    def arguments(self) -> tuple[object, ...]:
        return ()

    def on_message(self, message: object) -> Iterator[str]:
        self.secrets = message
        yield from ()


def test_the_encoder_process_has_no_key_of_the_language_model(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "sesame")
    kept = Reporting()
    try:
        wait_for(lambda: [list(kept.collect()), kept.secrets][1], 60)
    finally:
        kept.close()
    assert kept.secrets == ["", ""]
    assert os.environ["FTM_LLM_API_KEY"] == "sesame"
