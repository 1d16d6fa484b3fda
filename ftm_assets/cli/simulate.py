"""The `ftm simulate-model` command, which is `python -m devtools.fake_openai` now."""

import os
import sys
from pathlib import Path

import typer

import ftm_assets
from ftm_assets.errors import FtmError

# What is typed after the name, --help too, is for the other program.
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
_CLONE = Path(ftm_assets.__file__).parents[1]


class NotInClone(FtmError):
    """The fake model is not part of what pip installs."""

    def __init__(self) -> None:
        super().__init__(
            "`ftm simulate-model` is now `python -m devtools.fake_openai`, and only a clone of the project has it: "
            "run that in a clone"
        )


def simulate_model(context: typer.Context) -> None:
    """Moved: run `python -m devtools.fake_openai` in a clone. The options are the same."""
    if not (_CLONE / "devtools" / "fake_openai").is_dir():
        raise NotInClone
    typer.echo("`ftm simulate-model` is now `python -m devtools.fake_openai`, which runs here:", err=True)
    os.chdir(_CLONE)
    os.execv(sys.executable, [sys.executable, "-m", "devtools.fake_openai", *context.args])  # noqa: S606
