"""Progress bars: on standard error, and only where that is a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")
_RECENT = 300.0
"""Seconds that the time left is judged by: batches take unlike times, some steps minutes."""


class Bar:
    """A progress bar over `total` units, used as a context manager.

    Args:
        label: what is being done, in the user's words.
        total: number of units; None draws a pulse.
    """

    def __init__(self, label: str, total: float | None = None) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=_RECENT,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(label, total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def advance(self, n: float = 1) -> None:
        """Moves the bar by `n` units."""
        self._progress.advance(self._task, n)

    @property
    def remaining(self) -> float | None:
        """Seconds left, as the bar shows them; None where that cannot be told yet."""
        return self._progress.tasks[self._task].time_remaining

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()


def track(iterable: Iterable[T], label: str, total: float | None = None) -> Iterator[T]:
    """Yields from `iterable` while a bar named `label` advances by one for each item."""
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)  # type: ignore[arg-type]
    with Bar(label, total) as bar:
        for item in iterable:
            yield item
            bar.advance()
