"""The commands; each parses, calls and prints."""

from __future__ import annotations

import logging
import os
import tempfile
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from atlas_jax.cli import bridge as bridging
from atlas_jax.cli import evaluate_steering as steering_evaluation
from atlas_jax.cli import explore as exploring
from atlas_jax.cli import lift as lifting
from atlas_jax.cli import verbalize as verbalizing
from atlas_jax.cli import verify as verifying
from atlas_jax.cli.atlas import atlas_app
from atlas_jax.cli.capture import capture
from atlas_jax.cli.console import (
    Terminal,
    keep_compiled_programs,
    reports_errors,
    show_tracebacks,
)
from atlas_jax.cli.corpus import corpus_app
from atlas_jax.cli.doctor import doctor
from atlas_jax.cli.evaluate import evaluate_app
from atlas_jax.cli.export import export_app
from atlas_jax.cli.fit import fit, moments_app
from atlas_jax.cli.search import identify, search
from atlas_jax.cli.steer import steer
from atlas_jax.errors import InputError

app = typer.Typer(
    help="Read, search and steer one language model through the labelled features of another.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(atlas_app, name="atlas")
app.add_typer(corpus_app, name="corpus")
app.add_typer(evaluate_app, name="evaluate")
evaluate_app.command(epilog=steering_evaluation.EXAMPLE)(steering_evaluation.steering)
app.add_typer(export_app, name="export")
app.add_typer(moments_app, name="moments")
app.command()(doctor)
app.command(
    epilog="Example: atlas-jax fit runs/a/subject runs/a/atlas --method procrustes --out t"
)(fit)
app.command(
    epilog="Example: atlas-jax capture gemma-3-270m --corpus runs/quickstart/corpus "
    "--sites blocks.8.mlp.hook_post --pool max,mean --out runs/a/subject"
)(capture)
app.command(epilog="Example: atlas-jax search runs/quickstart 'dogs and cats'")(search)
app.command(epilog="Example: atlas-jax identify runs/quickstart 'dogs and cats' -k 3")(identify)
app.command(
    epilog="Example: atlas-jax steer runs/quickstart 'dogs and cats' --strength 4 "
    "--prompt 'My favourite animal is' --out dogs.jsonl"
)(steer)
app.command(epilog=exploring.EPILOG)(exploring.explore)
app.command(epilog=bridging.EPILOG)(bridging.bridge)
app.command(epilog=verbalizing.EPILOG)(verbalizing.verbalize)
app.command(epilog=lifting.EPILOG)(lifting.lift)
app.command(epilog=verifying.EPILOG)(verifying.verify)

Out = Annotated[Path | None, typer.Option(help="Folder of the run. [default: runs/<recipe>]")]
Split = Annotated[
    int, typer.Option(min=1, help="Devices that share a model's weights; the rest share batches.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON and nothing else.")]


@app.callback()
def settings(
    debug: Annotated[bool, typer.Option(help="Show the traceback of a failure.")] = False,
) -> None:
    """Before every command."""
    show_tracebacks(debug)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that torch is not installed
    logging.getLogger("transformers").setLevel(logging.ERROR)


@app.command(epilog="Example: atlas-jax quickstart --sequences 2000 --query 'the sea and ships'")
@reports_errors
def quickstart(
    out: Out = None,
    sequences: Annotated[
        int | None, typer.Option(min=40, help="Sentences of the corpus, held-out ones included.")
    ] = None,
    query: Annotated[
        list[str] | None, typer.Option(help="A concept to search and steer by; may be repeated.")
    ] = None,
    smoke: Annotated[
        bool, typer.Option(help="Tiny random models and no download: does it run at all?")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """The whole pipeline on two real models, ending with a report.

    Reads Gemma 3 270M and a Concept Atlas of SmolLM2 135M on the same sentences, fits five
    translations, measures them, finds the subject's features for some concepts and steers by them.
    """
    from atlas_jax.pipeline.recipe import load_recipe

    changes: dict[str, Any] = {}
    if sequences is not None:
        changes["corpus.sequences"] = sequences
    if any(not text.strip() for text in query or ()):
        raise InputError("Expected a concept in words after --query, got an empty text.")
    if smoke:
        if query:
            raise InputError("--query needs a real atlas: leave --smoke out.")
        _smoke(out, changes, as_json)
        return
    recipe = load_recipe("quickstart")
    if query:
        changes["identify.queries"] = [*recipe.identify.queries, *query]
    _experiment(recipe.with_values(changes), out, as_json)


@app.command(epilog="Example: atlas-jax run mine.toml --set corpus.sequences=2000 --only fit")
@reports_errors
def run(
    recipe: Annotated[str, typer.Argument(help="A TOML file, or the name of one that ships.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value (a TOML value); may be repeated.")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            help="One stage alone, on what earlier ones left: models, corpus, capture, fit, "
            "evaluate, retrieval, identify, steer, report."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it takes and what is missing; do nothing.")
    ] = False,
    rate: Annotated[
        float | None, typer.Option(min=0, help="FLOP/s of --dry-run's hours. [default: measured]")
    ] = None,
    split: Split = 1,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """The pipeline of a recipe. Resumes what an earlier run of it left unfinished.

    Under srun, mpirun or an indexed Job all processes share the work: see docs/scale.md.
    """
    from atlas_jax.pipeline.access import check_access, require_access
    from atlas_jax.pipeline.lift_recipe import is_lift
    from atlas_jax.pipeline.recipe import load_recipe

    changes = dict(_setting(text) for text in set_ or ())
    if is_lift(recipe):
        lifting.run_recipe(recipe, changes, dry_run, rate, out, as_json, only)
        return
    chosen = load_recipe(recipe).with_values(changes)
    if dry_run:
        from atlas_jax.cli.plan import show_plan

        show_plan(chosen, check_access(chosen), rate, as_json)
        return
    if only in (None, "models", "corpus", "capture"):
        require_access(chosen)
    _experiment(chosen, out, as_json, only=only, split=split)


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"Expected --set key=value, got '{text}'.")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        return key.strip(), value  # a bare word


def _experiment(
    recipe: Any,
    out: Path | None,
    as_json: bool,
    splitter: Any = None,
    only: str | None = None,
    split: int = 1,
) -> None:
    from atlas_jax.parallel import leads, start_processes
    from atlas_jax.pipeline.experiment import STAGES, run_experiment

    start_processes()
    keep_compiled_programs()
    terminal = Terminal(quiet=as_json or not leads(), stages=len(STAGES))
    folder = out or Path("runs") / recipe.name
    report = run_experiment(recipe, folder, terminal, splitter, only, split)
    if as_json and leads() and report.name == "report.html":
        typer.echo((report.parent / "report.json").read_text("utf-8"))


def _smoke(out: Path | None, changes: dict[str, Any], as_json: bool) -> None:
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    from atlas_jax.pipeline.smoke import smoke_recipe

    with tempfile.TemporaryDirectory() as temporary:
        folder = out or Path(temporary)
        recipe = smoke_recipe(folder / "models").with_values(changes)
        _experiment(recipe, folder, as_json, PunktSentenceTokenizer())


def main() -> None:
    """Entry point."""
    app()
