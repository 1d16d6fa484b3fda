"""The `ftm simulate-model` command: a language model that is none, to try the software without one."""

import time
from typing import Annotated

import typer

from ftm_assets.cli.display import console
from ftm_assets.cli.progress import stoppable
from devtools.fake_openai.behaviour import MODEL, Behaviour, mixed


def simulate_model(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of loopback; 0: any free one.")] = 8123,
    latency: Annotated[float, typer.Option(min=0, help="Seconds until each reply.")] = 0.2,
    rpm: Annotated[int, typer.Option(min=0, help="Requests that it answers in any minute; 0: no limit.")] = 0,
    tpm: Annotated[int, typer.Option(min=0, help="Tokens that it answers in any minute; 0: no limit.")] = 0,
    faults: Annotated[float, typer.Option(min=0, max=1, help="Share of requests that go wrong, in every way.")] = 0.0,
    key: Annotated[str | None, typer.Option(help="The only API key that it accepts; without: any.")] = None,
) -> None:
    """Be a language model that makes its replies of the words it is told, until Ctrl-C. Nothing it says is meant."""
    from devtools.fake_openai.server import running

    behaviour = Behaviour(mixed(faults), latency_s=latency, rpm=rpm, tpm=tpm, key=key)
    with running(behaviour, port) as model, stoppable("the same command", "the simulated model stopped"):
        console.print("# A simulated model: its replies are made up. In another terminal:", markup=False)
        console.print(f"export FTM_LLM_BASE_URL={model.base_url}", markup=False, soft_wrap=True)
        console.print(f"export FTM_LLM_MODEL={MODEL}", markup=False)
        console.print(f"export FTM_LLM_API_KEY={key or 'none'}", markup=False)
        while True:
            time.sleep(60.0)
