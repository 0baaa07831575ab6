"""`atlas-jax evaluate translation` and `retrieval`: measures of a finished run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from atlas_jax.cli.console import Terminal, keep_compiled_programs, reports_errors
from atlas_jax.cli.search import AsJson, RunArgument
from atlas_jax.errors import InputError

evaluate_app = typer.Typer(
    help="How well translations carry concepts.", no_args_is_help=True, rich_markup_mode=None
)

Method = Annotated[
    list[str] | None, typer.Option(help="May be repeated. [default: all that were fitted]")
]
Site = Annotated[list[str] | None, typer.Option(help="May be repeated. [default: all]")]
Out = Annotated[
    Path | None, typer.Option(help="Folder of the results. [default: RUN/reports/<kind>]")
]
Seed = Annotated[int, typer.Option(help="Of draws, intervals and tests.")]


@evaluate_app.callback()
def evaluate() -> None:
    """How well translations carry concepts."""


@evaluate_app.command(
    epilog="Example: atlas-jax evaluate translation runs/quickstart --features 100"
)
@reports_errors
def translation(
    run: RunArgument,
    features: Annotated[
        str, typer.Option(help="How many atlas features to draw, or which: 12,404,3001.")
    ] = "100",
    method: Method = None,
    site: Site = None,
    min_positive: Annotated[
        int, typer.Option(min=1, help="Held-out texts that a drawn feature is active on.")
    ] = 10,
    cosine: Annotated[bool, typer.Option(help="Divide scores by the norms.")] = False,
    seed: Seed = 0,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """AUROC and average precision of one-concept queries on held-out texts (section 4.3.1)."""
    from atlas_jax.parallel import sums_mesh
    from atlas_jax.pipeline.evaluation import evaluate_run_translation
    from atlas_jax.pipeline.run_folder import RunFolder

    result = evaluate_run_translation(
        RunFolder(run),
        _features(features),
        sites=site,
        methods=method,
        seed=seed,
        cosine=cosine,
        min_positive=min_positive,
        mesh=sums_mesh(),
    )
    _finish("translation", result, out or run / "reports" / "translation", as_json)


@evaluate_app.command(
    epilog="Example: atlas-jax evaluate retrieval runs/quickstart --features 200 --samples 20"
)
@reports_errors
def retrieval(
    run: RunArgument,
    features: Annotated[
        str, typer.Option(help="How many subject features to draw, or which: 12,404,3001.")
    ] = "454",
    samples: Annotated[int, typer.Option(min=1, help="Texts of a set.")] = 20,
    sets: Annotated[
        Path | None, typer.Option(help='JSONL of {"feature", "texts"}; needs one --site.')
    ] = None,
    descriptions: Annotated[
        Path | None,
        typer.Option(help="Labels of subject features, to have sets written; needs --endpoint."),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="Chat completions, such as http://localhost:8000/v1.")
    ] = None,
    model: Annotated[str, typer.Option(help="At the endpoint.")] = "gpt-4o-mini-2024-07-18",
    method: Method = None,
    site: Site = None,
    validity: Annotated[
        str, typer.Option(help="Which sets are kept: sets, features or none.")
    ] = "sets",
    seed: Seed = 0,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """MRR and MPP of subject features, looked for by texts that activate them (section 4.3.2).

    Sets are made of the held-out texts that activate a feature most, read from --sets, or written
    by a model at --endpoint from --descriptions.
    """
    from atlas_jax.pipeline.evaluation import evaluate_run_retrieval
    from atlas_jax.pipeline.run_folder import RunFolder
    from atlas_jax.pipeline.text_sets import text_sets, written_sets

    opened = RunFolder(run)
    folder = out or run / "reports" / "retrieval"
    source = None
    if descriptions is not None:
        if endpoint is None or sets is not None:
            raise InputError("--descriptions needs --endpoint URL, and no --sets.")
        chosen = _features(features)
        sets = written_sets(folder, descriptions, endpoint, model, samples, chosen, seed)
    if sets is not None:
        keep_compiled_programs()
        source = text_sets(opened, sets, site)
    result = evaluate_run_retrieval(
        opened,
        _features(features),
        samples,
        sites=site,
        methods=method,
        validity=validity,
        seed=seed,
        sets=source,
    )
    _finish("retrieval", result, folder, as_json)


def _features(text: str) -> int | list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"Expected --features as a number, or as some separated by commas, got '{text}'."
        ) from None
    return numbers[0] if len(numbers) == 1 and not text.endswith(",") else numbers


def _finish(kind: str, result: Mapping[str, Any], out: Path, as_json: bool) -> None:
    from atlas_jax.pipeline.evaluation import TABLES, save_evaluation

    written = save_evaluation(kind, result, out)
    if as_json:
        typer.echo(json.dumps(result, indent=1))
        return
    terminal = Terminal()
    for table in TABLES[kind](result, tests=False):  # the paired tests are in the files
        terminal.line(table.caption)
        terminal.table(table.head, table.rows)
    terminal.line(f"{', '.join(path.name for path in written)} in {out}")
