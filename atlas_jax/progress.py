"""Progress bars: on standard error, and only where that is a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

T = TypeVar("T")


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
            _Left(self),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(label, total=total)
        self._total, self._done, self._apart = total, 0.0, 0.0
        self._first: tuple[float, float] | None = None
        self._last = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def advance(self, n: float = 1) -> None:
        """Moves the bar by `n` units."""
        self._progress.advance(self._task, n)
        self._done += n
        self._last = time.monotonic()
        if self._first is None:  # what was done before, or what came with the start
            self._first, self._apart = (self._last, self._done), 0.0

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Time spent within says nothing of the time left: what is done once, as compiling."""
        begun = time.monotonic()
        yield
        self._apart += time.monotonic() - begun

    @property
    def remaining(self) -> float | None:
        """Seconds left, as the bar shows them: at the rate of all steps but the first; None where
        that cannot be told yet."""
        if self._total is None or self._first is None or self._done <= self._first[1]:
            return None
        begun, before = self._first
        rate = (self._last - begun - self._apart) / (self._done - before)
        return max(0.0, (self._total - self._done) * rate - (time.monotonic() - self._last))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()


class _Left(ProgressColumn):
    """The time left of a bar."""

    max_refresh = 0.5

    def __init__(self, bar: Bar) -> None:
        super().__init__()
        self.bar = bar

    def render(self, task: Task) -> Text:
        left = self.bar.remaining
        shown = "-:--:--" if left is None else str(timedelta(seconds=round(left)))
        return Text(shown, style="progress.remaining")


def track(iterable: Iterable[T], label: str, total: float | None = None) -> Iterator[T]:
    """Yields from `iterable` while a bar named `label` advances by one for each item."""
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)  # type: ignore[arg-type]
    with Bar(label, total) as bar:
        for item in iterable:
            yield item
            bar.advance()
