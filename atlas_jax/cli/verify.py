"""`atlas-jax verify`: whether a run folder is what it says."""

from __future__ import annotations

from typing import Annotated

import typer

from atlas_jax.cli.console import Terminal, keep_compiled_programs, reports_errors
from atlas_jax.cli.search import RunArgument

EPILOG = "Example: atlas-jax verify runs/quickstart --rows 16"


@reports_errors
def verify(
    run: RunArgument,
    rows: Annotated[
        int, typer.Option(min=0, help="Samples that the models read again; 0: no model is loaded.")
    ] = 8,
    seed: Annotated[int, typer.Option(help="Which samples and features.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the checks as JSON and nothing else.")
    ] = False,
) -> None:
    """Checks hashes, checksums and headers of a run, and computes a sample of its rows again.

    Exit code 2 if anything is not as it was recorded. Nothing is written.
    """
    import json

    from atlas_jax.errors import InputError
    from atlas_jax.pipeline.verify import verify_run

    keep_compiled_programs()
    terminal, checks = Terminal(quiet=as_json), []
    for check in verify_run(run, rows, seed):
        checks.append(check)
        mark = "ok  " if check.ok else "BAD "
        terminal.line(f"{mark}{check.part}: {check.what}: {check.found}")
    if as_json:
        typer.echo(json.dumps([check.to_dict() for check in checks], indent=1))
    bad = [check for check in checks if not check.ok]
    if bad:
        raise InputError(
            f"Expected {len(checks)} checks of {run} to pass, {len(bad)} did not, the first one "
            f"{bad[0].part} ({bad[0].what}): delete that part, then run the recipe again."
        )
    terminal.line(f"All {len(checks)} checks passed.")
