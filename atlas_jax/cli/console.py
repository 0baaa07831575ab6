"""What the user sees: stages, lines and tables on standard output, errors in one line."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Never, ParamSpec, TypeVar

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from atlas_jax.errors import InputError

_tracebacks = False

P = ParamSpec("P")
R = TypeVar("R")


class Terminal:
    """Prints what an experiment does.

    Args:
        quiet: print nothing (for `--json`).
        stages: how many stages there are.
    """

    def __init__(self, quiet: bool = False, stages: int = 0) -> None:
        width = None if sys.stdout.isatty() else 120
        self.console = Console(quiet=quiet, highlight=False, width=width)
        self.stages = stages

    def stage(self, number: int, title: str) -> None:
        """Opens a stage."""
        self.console.print(Text(f"\n[{number}/{self.stages}] {title}", style="bold"))

    def line(self, text: str) -> None:
        """One line; text from corpora and models is never read as markup."""
        self.console.print(Text(f"  {text}"), soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; columns of numbers are set to the right."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
        for i, column in enumerate(columns):
            numeric = all(row[i][:1].isdigit() or row[i][:1] in "-" for row in rows) and i > 0
            table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self.console.print(table)


def keep_compiled_programs() -> None:
    """Compiled programs are kept in the cache folder, so that a second run does not compile."""
    import jax

    from atlas_jax.assets import cache_folder

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))


def show_tracebacks(wanted: bool) -> None:
    """Lets failures through with their traceback."""
    global _tracebacks
    _tracebacks = wanted


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turns wrong input into one line and exit code 2, an interruption into a hint, and any other
    failure into one line and exit code 1 (with `atlas-jax --debug`, its traceback)."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except InputError as error:
            _fail(str(error), 2)
        except KeyboardInterrupt:
            _fail("stopped. Type the same command to go on where it stopped.", 130)
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            if _tracebacks:
                raise
            from atlas_jax.parallel import explained

            if lost := explained(error):
                _fail(lost, 1)
            reason = str(error).splitlines()[0] if str(error) else ""
            _fail(
                f"{type(error).__name__}: {reason} (a failure of atlas-jax, not of your input: "
                "run `atlas-jax --debug ...` for the traceback)",
                1,
            )

    return wrapped


def _fail(message: str, code: int) -> Never:
    print(f"atlas-jax: {message}", file=sys.stderr, flush=True)
    if _one_of_several():
        sys.stdout.flush()
        os._exit(code)  # a process that leaves in order waits until all others leave too
    raise typer.Exit(code)


def _one_of_several() -> bool:
    """Whether other processes wait for this one."""
    if "jax" not in sys.modules:
        return False
    import jax

    return jax.distributed.is_initialized()
