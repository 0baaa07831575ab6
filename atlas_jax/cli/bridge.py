"""`atlas-jax bridge`: an affine map between the residual streams of two models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from atlas_jax.cli.console import Terminal, keep_compiled_programs, reports_errors
from atlas_jax.errors import InputError

EPILOG = (
    "Example: atlas-jax bridge smollm2-135m-instruct gemma-3-270m --corpus runs/a/corpus "
    "--source-site blocks.12.hook_resid_post --target-site blocks.9.hook_resid_post --min-left 5 "
    "--out bridge.safetensors"
)


@reports_errors
def bridge(
    source: Annotated[str, typer.Argument(help="Model whose directions are to be read.")],
    target: Annotated[str, typer.Argument(help="Model into which they are mapped.")],
    source_site: Annotated[str, typer.Option(help="Such as blocks.20.hook_resid_post.")],
    target_site: Annotated[str, typer.Option(help="What the verbalizer reads.")],
    corpus: Annotated[
        Path | None, typer.Option(help="Corpus folder, or a text file with a text on each line.")
    ] = None,
    out: Annotated[Path, typer.Option(help="File of the bridge.")] = Path("bridge.safetensors"),
    moments: Annotated[
        Path | None,
        typer.Option(help="File to save sums in; the same command goes on from it, or refits."),
    ] = None,
    background: Annotated[
        Path | None, typer.Option(help="File for target activations, which washouts need.")
    ] = None,
    min_left: Annotated[int, typer.Option(help="Tokens to the left of a paired one.")] = 50,
    per_text: Annotated[int, typer.Option(help="Pairs of a text, at most.")] = 8,
    pooling: Annotated[str, typer.Option(help="token; mean: another estimand.")] = "token",
    rows: Annotated[str, typer.Option(help="raw or unit.")] = "raw",
    folds: Annotated[int, typer.Option(help="Of the documents.")] = 5,
    choose: Annotated[str, typer.Option(help="kfold, gcv, or lambda / n itself.")] = "kfold",
    shuffle: Annotated[bool, typer.Option(help="Pair rows wrongly: the null.")] = False,
    dtype: Annotated[str, typer.Option(help="Of the weights.")] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Fits a bridge on tokens of two models that close the same prefix of the same text."""
    from atlas_jax.models import load_model
    from atlas_jax.verbalize import Pairing, Ridge, solve_bridge
    from atlas_jax.verbalize.fit_bridge import read_moments
    from atlas_jax.verbalize.reading import ModelSide, PairReader

    keep_compiled_programs()
    pairing = Pairing(min_left=min_left, per_text=per_text, pooling=pooling)
    ridge = Ridge(choose=_number(choose))
    texts = _texts(corpus)
    sides = [
        ModelSide(load_model(name, dtype), site)
        for name, site in ((source, source_site), (target, target_site))
    ]
    reader = PairReader(sides[0], sides[1], texts, pairing)
    found = read_moments(reader, rows, folds, path=moments, shuffle=shuffle)
    made = solve_bridge(found, ridge)
    made.save(out)
    if background is not None:
        found.background().save(background)
    if as_json:
        typer.echo(json.dumps(made.meta, indent=1))
        return
    terminal = Terminal()
    terminal.line(repr(made))
    terminal.line(f"lambda / n {made.meta['tau']:.3g}, chosen by {made.meta['chosen_by']}")
    shown = [[name.replace("_", " "), f"{v:.3f}"] for name, v in made.meta["fve"].items()]
    terminal.table(["variance explained", "share"], shown)
    terminal.line(f"written to {out}")


def _texts(corpus: Path | None) -> Any:
    from atlas_jax.corpus import Corpus, Texts

    if corpus is None:
        raise InputError("Expected --corpus: a corpus folder or a text file.")
    if corpus.is_file():
        lines = [line for line in corpus.read_text("utf-8").splitlines() if line.strip()]
        return Texts(lines)
    return Corpus.load(corpus).train


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
