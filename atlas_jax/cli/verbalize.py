"""`atlas-jax verbalize`: what directions mean, in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from atlas_jax.cli.console import Terminal, keep_compiled_programs, reports_errors
from atlas_jax.errors import InputError
from atlas_jax.outside import read_npy, refusing

EPILOG = (
    "Example: atlas-jax verbalize kitft/nla-gemma3-27b-L41-av --bridge bridge.safetensors "
    "--background background.safetensors --atlas qwen-sae --feature 45 --feature 812"
)


@reports_errors
def verbalize(
    verbalizer: Annotated[str, typer.Argument(help="Folder or hub id of a verbalizer.")],
    atlas: Annotated[
        str | None, typer.Option(help="Autoencoder whose decoder rows are the directions.")
    ] = None,
    feature: Annotated[list[int] | None, typer.Option(help="Of it; may be repeated.")] = None,
    directions: Annotated[
        Path | None, typer.Option(help="A .npy file with directions as rows, instead.")
    ] = None,
    bridge: Annotated[
        Path | None, typer.Option(help="From another model's directions to the verbalizer's.")
    ] = None,
    background: Annotated[Path | None, typer.Option(help="Of the washout.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML that describes verbalizers.")] = None,
    angle: Annotated[str, typer.Option(help="Of the washout: auto, degrees, or bare.")] = "auto",
    omega: Annotated[float, typer.Option(help="Weight of what is subtracted from logits.")] = 0.0,
    members: Annotated[int, typer.Option(help="Activations of a paired ensemble.")] = 0,
    samples: Annotated[int, typer.Option(help="Of each direction.")] = 1,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    dtype: Annotated[str, typer.Option(help="Of the weights.")] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Explains directions of the verbalizer's own model, or of another one over a bridge."""
    from atlas_jax.verbalize import Bridge, load_verbalizer

    keep_compiled_programs()
    washout = washout_of(angle, omega, members)
    rows, names = rows_of(atlas, feature, directions)
    over = Bridge.load(bridge) if bridge else None
    made = load_verbalizer(
        verbalizer, config=config, background=background, bridge=over, dtype=dtype
    )
    mapped = over.directions(rows) if over else rows
    said = made.explain_all(mapped, washout, samples=samples, temperature=temperature)
    trust = over.reliability(rows) if over else [None] * len(rows)
    result = [
        {
            "direction": name,
            "reliability": None if t is None else round(float(t), 4),
            "complete": all(e.complete for e in texts),
            "explanations": [e.text for e in texts],
        }
        for name, t, texts in zip(names, trust, said, strict=True)
    ]
    if as_json:
        typer.echo(json.dumps(result, indent=1, ensure_ascii=False))
        return
    terminal = Terminal()
    for entry in result:
        t = "" if entry["reliability"] is None else f"  (reliability {entry['reliability']:.2f})"
        terminal.line(f"{entry['direction']}{t}")
        for text in entry["explanations"]:
            terminal.line(f"  {text}")


def rows_of(atlas: str | None, feature: list[int] | None, directions: Path | None) -> Any:
    """Directions as rows, and their names."""
    import numpy as np

    if (directions is None) == (atlas is None):
        raise InputError("Expected either --directions FILE.npy or --atlas NAME with --feature.")
    if directions is not None:
        with refusing(f"rows in {directions}"):
            rows = np.atleast_2d(read_npy(directions)).astype(np.float32)
            if rows.ndim != 2:
                raise ValueError(f"an array of {rows.ndim} axes")
        return rows, [str(i) for i in range(len(rows))]
    if not feature:
        raise InputError("Expected --feature with --atlas; it may be repeated.")
    from atlas_jax.atlas import load_atlas

    found = load_atlas(atlas)  # type: ignore[arg-type]
    found.check(feature)
    names = [f"{i}: {found.describe(i)}" for i in feature]
    return np.asarray(found.sae.W_dec)[feature], names


def washout_of(angle: str, omega: float, members: int) -> Any:
    """From the words of the command line."""
    from atlas_jax.verbalize import Washout

    if angle == "bare":
        return Washout(angle=None, omega=omega, members=members)
    try:
        degrees: float | str = "auto" if angle == "auto" else float(angle)
    except ValueError:
        raise InputError(f"Expected --angle auto, bare or degrees, got '{angle}'.") from None
    return Washout(angle=degrees, omega=omega, members=members)
