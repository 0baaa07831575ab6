"""`atlas-jax fit` and `atlas-jax moments merge`: translations from stores, and from saved sums."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from atlas_jax.cli.console import Terminal, reports_errors
from atlas_jax.errors import InputError

moments_app = typer.Typer(
    help="Saved moments of fits.", no_args_is_help=True, rich_markup_mode=None
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@reports_errors
def fit(
    subject: Annotated[
        str | None, typer.Argument(help="Activation store of the subject.", show_default=False)
    ] = None,
    atlas: Annotated[
        list[str] | None,
        typer.Argument(help="Store of the atlas on the same texts.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the translations.")] = Path("translations"),
    method: Annotated[
        list[str] | None, typer.Option(help="May be repeated. [default: procrustes]")
    ] = None,
    site: Annotated[
        list[str] | None, typer.Option(help="Of the subject; may be repeated. [default: all]")
    ] = None,
    alpha: Annotated[
        str, typer.Option(help="Of ridge, relative to the mean of the Gram's diagonal; gcv; kfold.")
    ] = "1.0",
    folds: Annotated[int, typer.Option(min=2, help="Of --alpha kfold.")] = 5,
    k: Annotated[int, typer.Option(min=1, help="Samples of Semantic Lens.")] = 20,
    rcond: Annotated[float, typer.Option(min=0.0, help="Rank cut of Procrustes.")] = 3e-7,
    polar: Annotated[str, typer.Option(help="auto, gram, polar_express, qdwh or svd.")] = "auto",
    center: Annotated[bool, typer.Option(help="Procrustes of centred rows.")] = False,
    layout: Annotated[str, typer.Option(help="Atlas rows: auto, sparse or dense.")] = "auto",
    max_memory: Annotated[
        str | None, typer.Option(help="Of the sums, such as 8GB. [default: no bound]")
    ] = None,
    moments: Annotated[
        Path | None, typer.Option(help="Folder to save sums in, or, without stores, to fit from.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fits translations from activation stores, or from saved moments.

    One pass over the rows serves all methods and sites. With --moments the sums are saved while
    they grow: the same command goes on where it stopped, and `atlas-jax moments merge` adds the
    sums of several runs. Without stores it fits from the saved sums; Semantic Lens then needs the
    atlas stores: atlas-jax fit - ATLAS ATLAS --moments FOLDER. Under srun, mpirun or an indexed Job
    each process reads rows of its own.
    """
    from atlas_jax.parallel import barrier, leads, start_processes, sums_mesh
    from atlas_jax.translate import Options, Plan, fit_moments

    start_processes()
    terminal = Terminal(quiet=as_json or not leads())
    methods = tuple(method or ("procrustes",))
    options = Options(
        alpha=_alpha(alpha), folds=folds, k=k, rcond=rcond, polar=polar, center=center
    )
    if subject in (None, "-"):
        if moments is None:
            raise InputError("Expected the stores of subject and atlas, or --moments FOLDER.")
        found = fit_moments(moments, _stores(atlas or ()), methods, options=options)
        pairs = ((s, t) for s, by in found.items() if not site or s in site for t in by.values())
    else:
        plan = Plan(
            mesh=sums_mesh(),
            layout=layout,
            max_memory=max_memory,
            moments=moments,
            report=terminal.line,
        )
        pairs = _from_stores(str(subject), atlas or [], site, methods, options, plan)
    if leads():
        _write(pairs, out, terminal, as_json)
    else:
        deque(pairs, maxlen=0)  # its share of the work
    barrier("the translations are saved")


def _from_stores(
    subject: str, atlas: list[str], site: list[str] | None, methods: Any, options: Any, plan: Any
) -> Iterable[tuple[str, Any]]:
    from atlas_jax.activations import ActivationStore
    from atlas_jax.translate import fit_inputs
    from atlas_jax.translate.rows import StoredInputs, as_rows

    if len(atlas) != 1:
        raise InputError(f"Expected one atlas store beside the subject's, got {len(atlas)}.")
    store = ActivationStore.open(subject)
    sides = {name: store[name] for name in site or store.sites}
    return fit_inputs(StoredInputs(sides, as_rows(_stores(atlas)[0])), methods, options, plan)


def _stores(urls: Iterable[str]) -> list[Any]:
    from atlas_jax.activations import ActivationStore

    return [ActivationStore.open(url) for url in urls]


def _write(pairs: Iterable[tuple[str, Any]], out: Path, terminal: Terminal, as_json: bool) -> None:
    """Each translation is written as soon as it is there, and let go."""
    written = []
    for site, translation in pairs:
        path = translation.save(out / site / f"{translation.method}.safetensors")
        options = translation.meta["options"]
        written.append(
            {"site": site, "method": translation.method, "file": str(path), "options": options}
        )
    if as_json:
        typer.echo(json.dumps(written, indent=1))
        return
    rows = [[w["site"], w["method"], _shown(w["options"]), w["file"]] for w in written]
    terminal.table(["site", "method", "result", "file"], rows)


def _shown(options: dict[str, Any]) -> str:
    parts = []
    for key in ("rank", "residual", "polar", "alpha", "chosen_by", "k", "objective", "steps"):
        value = options.get(key)
        if isinstance(value, float):
            parts.append(f"{key} {value:.3g}")
        elif value is not None and not isinstance(value, list):
            parts.append(f"{key} {value}")
    return ", ".join(parts)


def _alpha(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


@moments_app.callback()
def moments() -> None:
    """Saved moments of fits."""


@moments_app.command(
    epilog="Example: atlas-jax moments merge runs/a/moments runs/b/moments --out runs/ab/moments"
)
@reports_errors
def merge(
    folders: Annotated[list[str], typer.Argument(help="Folders that `fit --moments` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder of the merged moments.")],
    as_json: Json = False,
) -> None:
    """Adds the moments of runs on different texts, as if all rows had been read in one run."""
    from atlas_jax.translate import merge_moments

    header = merge_moments(list(folders), out)
    if as_json:
        typer.echo(json.dumps(header, indent=1))
        return
    counts = " + ".join(str(run["n"]) for run in header["inputs"])
    terminal = Terminal()
    terminal.line(f"{counts} = {header['n']} samples in {out}")
    terminal.line(f"atlas-jax fit --moments {out} fits from them")
