"""`atlas-jax lift`: native and foreign explanations compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from atlas_jax.cli.console import Terminal, keep_compiled_programs, reports_errors
from atlas_jax.cli.verbalize import rows_of, washout_of
from atlas_jax.errors import InputError

EPILOG = (
    "Example: atlas-jax lift bridge.safetensors --foreign kitft/nla-gemma3-27b-L41-av --native "
    "kitft/nla-qwen2.5-7b-L20-av --background gemma.safetensors --native-background "
    "qwen.safetensors --directions decoder_rows.npy --out lift"
)


@reports_errors
def lift(
    bridge: Annotated[Path, typer.Argument(help="File of a bridge.")],
    foreign: Annotated[str, typer.Option(help="Verbalizer of the bridge's target.")],
    background: Annotated[Path, typer.Option(help="Activations of the target, for the washout.")],
    native: Annotated[
        str | None,
        typer.Option(help="Verbalizer of the source. [default: the atlas' descriptions]"),
    ] = None,
    native_background: Annotated[
        Path | None, typer.Option(help="Activations of the source. [default: no washout]")
    ] = None,
    atlas: Annotated[str | None, typer.Option(help="Whose decoder rows are compared.")] = None,
    feature: Annotated[list[int] | None, typer.Option(help="Of it; may be repeated.")] = None,
    directions: Annotated[Path | None, typer.Option(help="Rows in a .npy file, instead.")] = None,
    shuffled: Annotated[
        Path | None, typer.Option(help="A bridge of wrong pairs (bridge --shuffle), as a null.")
    ] = None,
    angle: Annotated[str, typer.Option(help="Of the washout: auto, degrees, or bare.")] = "auto",
    samples: Annotated[int, typer.Option(help="Explanations of each direction.")] = 1,
    random: Annotated[int, typer.Option(help="Random directions of each family.")] = 100,
    clusters: Annotated[int, typer.Option(help="Topics of a test within topics.")] = 0,
    reconstructor: Annotated[
        str | None, typer.Option(help="Of the target: measures the round trip too.")
    ] = None,
    sweep: Annotated[
        bool, typer.Option(help="Compare washouts: bare, A at seven angles, B and C.")
    ] = False,
    temperature: Annotated[float, typer.Option(help="Where samples are more than one.")] = 0.7,
    out: Annotated[Path, typer.Option(help="Folder of lift.json and lift.html.")] = Path("lift"),
    dtype: Annotated[str, typer.Option(help="Of the weights.")] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Measures how much better foreign explanations match their own feature's than others'."""
    from atlas_jax.atlas.embed import SentenceEmbedder
    from atlas_jax.journal import Journal
    from atlas_jax.verbalize import BARE, Bridge, Verbalizer, load_verbalizer
    from atlas_jax.verbalize.lift_page import save_lift
    from atlas_jax.verbalize.lift_run import JOURNAL, LiftPlan, measure_lift
    from atlas_jax.verbalize.reconstructor import load_reconstructor
    from atlas_jax.verbalize.washout_comparison import usual_washouts

    keep_compiled_programs()
    over = Bridge.load(bridge)
    rows, names = rows_of(atlas, feature, directions)
    if native is None and atlas is None:
        raise InputError("Expected --native, or --atlas with descriptions to compare with.")
    speaks = load_verbalizer(foreign, background=background, bridge=over, dtype=dtype)
    own = (
        load_verbalizer(native, background=native_background, dtype=dtype)
        if native
        else [name.split(": ", 1)[1] for name in names]
    )
    if sweep and speaks.background is None:
        raise InputError(
            "Expected --background for --sweep: a washout has to know the usual state."
        )
    plan = LiftPlan(
        washout=washout_of(angle, 0.0, 0),
        native_washout=None if native_background else BARE,
        samples=samples,
        random=random,
        clusters=clusters,
        temperature=temperature,
        sweep=usual_washouts(speaks.background) if sweep and speaks.background else {},
    )
    null = Bridge.load(shuffled) if shuffled else None
    back = load_reconstructor(reconstructor, dtype) if reconstructor else None
    with Journal(out / JOURNAL) as journal:
        for one in (speaks, own):
            if isinstance(one, Verbalizer):
                one.journal = journal
        result = measure_lift(rows, own, speaks, over, SentenceEmbedder(), plan, names, null, back)
    page = save_lift(result, out / "lift.html")
    if as_json:
        typer.echo(json.dumps(result["figures"], indent=1))
        return
    terminal, figures = Terminal(), result["figures"]
    spec = figures["lift_spec"]
    terminal.line(
        f"lift {spec['mean']:+.3f} ({spec['low']:+.3f} to {spec['high']:+.3f}) over "
        f"{len(names)} features; permutation p {figures['permutation']['p']:.4f}"
    )
    terminal.line(f"top-1 {figures['top1']:.2f} (chance {figures['chance']:.2f}); {page}")


def run_recipe(
    reference: str,
    changes: dict[str, Any],
    dry_run: bool,
    rate: float | None,
    out: Path | None,
    as_json: bool,
    only: str | None,
) -> None:
    """`atlas-jax run` of the recipe of a lift."""
    from atlas_jax.pipeline.access import MISSING
    from atlas_jax.pipeline.lift_plan import check_lift_access, plan_lift
    from atlas_jax.pipeline.lift_recipe import load_lift_recipe
    from atlas_jax.pipeline.lift_run import run_lift

    recipe = load_lift_recipe(reference).with_values(changes).check()
    if only is not None:
        raise InputError("--only is for experiments: a lift resumes where it stopped.")
    access = check_lift_access(recipe)
    if dry_run:
        from atlas_jax.cli.plan import show_costs

        show_costs(plan_lift(recipe), recipe.bridge.dtype, access, rate, as_json)
        return
    missing = [f"{a.what} {a.name}: {a.reason}" for a in access if a.state == MISSING]
    if missing:
        raise InputError(
            f"Expected to read everything that {recipe.name} needs. Missing: {'; '.join(missing)}"
        )
    keep_compiled_programs()
    terminal = Terminal(quiet=as_json)
    page = run_lift(recipe, out or Path("runs") / recipe.name, terminal.line)
    terminal.line(str(page))
    if as_json:
        typer.echo(page.with_suffix(".json").read_text("utf-8"))
