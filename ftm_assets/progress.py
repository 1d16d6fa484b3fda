"""How far a command is, while it works."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ftm_assets.display import errors

Item = TypeVar("Item")


@contextmanager
def stoppable(next_step: str) -> Iterator[None]:
    """Ctrl-C ends the command with one line that says how to go on, and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        errors.print(f"stopped; go on with: {next_step}")
        raise typer.Exit(130) from None


@contextmanager
def spinner(what: str) -> Iterator[None]:
    """A sign of life for work of unknown length."""
    with _terminal() as terminal, terminal.status(what):
        yield


def tracked(items: Iterator[Item], total: int, what: str) -> Iterator[Item]:
    """The items, with a bar that shows count, rate, time taken and time left while they come."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), _Rate(), TimeElapsedColumn())
    with (
        _terminal() as terminal,
        Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=terminal) as bar,
    ):
        task = bar.add_task(what, total=total)
        for item in items:
            bar.advance(task)
            yield item


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed or 0.0
        return Text(f"{60 * speed:.1f}/min")


@contextmanager
def _terminal() -> Iterator[Console]:
    """Standard error on a descriptor of its own: a run takes the usual one for its compute logs."""
    with os.fdopen(os.dup(2), "w") as stream:
        yield Console(file=stream, highlight=False)
