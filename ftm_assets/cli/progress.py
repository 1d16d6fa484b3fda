"""Progress of a command while it works."""

import os
from collections.abc import Callable, Iterator
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

from ftm_assets.cli.display import errors

Item = TypeVar("Item")


@contextmanager
def stoppable(next_step: str, happened: str = "stopped") -> Iterator[None]:
    """Ctrl-C ends the command with one line that says what happened and how to go on, and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        errors.print(f"{happened}; go on with: {next_step}")
        raise typer.Exit(130) from None


@contextmanager
def spinner(what: str) -> Iterator[None]:
    """A spinner for work of unknown length."""
    with _terminal() as terminal, terminal.status(what):
        yield


@contextmanager
def bar(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """A bar with count, rate, time taken and time left; call what this yields to advance it."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), _Rate(), TimeElapsedColumn())
    with _terminal() as terminal:
        progress = Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=terminal)
        with progress:
            task = progress.add_task(what, total=total)
            yield lambda n: progress.advance(task, n)


def tracked(items: Iterator[Item], total: int, what: str) -> Iterator[Item]:
    """The items, with a bar that advances as they come."""
    with bar(total, what) as advance:
        for item in items:
            advance(1)
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
