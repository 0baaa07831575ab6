"""`atlas-jax export`: translations, steering vectors and autoencoders for other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from atlas_jax.cli.console import Terminal, keep_compiled_programs, reports_errors
from atlas_jax.cli.search import AsJson, Features, Method, QueryArgument, RunArgument, Sites, Top
from atlas_jax.errors import InputError
from atlas_jax.pipeline.run_folder import RunFolder, query_facts

export_app = typer.Typer(
    help="Translations, steering vectors and autoencoders, as files of other programs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Source = Annotated[
    Path,
    typer.Argument(metavar="SOURCE", help="A translation's file, or the folder of a run."),
]
Site = Annotated[
    str | None, typer.Option(help="Of the subject, in a run. [default: the run's only one]")
]


@export_app.command(
    epilog="Example: atlas-jax export translation runs/quickstart --site blocks.8.mlp.hook_post "
    "--out map.npz"
)
@reports_errors
def translation(
    source: Source,
    out: Annotated[Path, typer.Option(help="A .safetensors, .npz or .pt file.")],
    site: Site = None,
    method: Method = "procrustes",
    as_json: AsJson = False,
) -> None:
    """Writes T (d_s, d_c), a row for each subject feature, with what it was made from."""
    from atlas_jax.export import export_translation

    found, _ = _open(source, site, method)
    _tell([export_translation(found, out)], as_json, shape=list(found.matrix.shape))


@export_app.command(
    epilog="Example: atlas-jax export vector runs/quickstart 'dogs and cats' --strength 4 "
    "--out dogs.py --library transformer_lens"
)
@reports_errors
def vector(
    run: RunArgument,
    query: QueryArgument = None,
    out: Annotated[Path, typer.Option(help="A .safetensors, .npz, .pt, .gguf or .py file.")] = Path(
        "vector.safetensors"
    ),
    features: Features = None,
    top: Top = 5,
    site: Sites = None,
    method: Method = "procrustes",
    strength: Annotated[float, typer.Option(help="Lambda.")] = 4.0,
    mode: Annotated[
        str | None,
        typer.Option(help="steer (eq. 4), add, ablate or clamp. [default: steer; add for .gguf]"),
    ] = None,
    library: Annotated[
        str,
        typer.Option(help="That a .py script steers: transformer_lens, transformers or nnsight."),
    ] = "transformers",
    approximate: Annotated[
        bool, typer.Option(help="Also write a .gguf that is not the same as the edit.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Writes the scores of a query as a steering vector, one for each site.

    A .gguf is a control vector of llama.cpp, repeng and EasySteer, with the strength in it; a .py
    is a script that steers a model of another library by the .safetensors beside it.
    """
    from atlas_jax.export import export_vectors
    from atlas_jax.steering import steer_query

    opened = RunFolder(run)
    maps = {s: opened.translation(s, method) for s in opened.choose_sites(site)}
    asked = opened.query(query, features, top)
    mode = mode or ("add" if out.suffix == ".gguf" else "steer")
    edits = steer_query(maps, asked, strength, mode)
    facts = query_facts(asked, opened.atlas)
    about = {"query": facts, "subject": opened.recipe["subject"]["model"], "method": method}
    model = opened.model if out.suffix == ".gguf" else None
    files = export_vectors(
        edits, out, about=about, model=model, library=library, approximate=approximate
    )
    _tell(files, as_json, query=facts, sites=list(maps), mode=mode, strength=strength)


@export_app.command(
    epilog="Example: atlas-jax export sae runs/quickstart --site blocks.8.mlp.hook_post "
    "--out gemma-8-inherited"
)
@reports_errors
def sae(
    source: Source,
    out: Annotated[Path, typer.Option(help="Folder, as SAELens reads it.")],
    site: Site = None,
    method: Method = "procrustes",
    tokens: Annotated[
        int,
        typer.Option(min=0, help="Of held-out sentences, to set thresholds on; 0: a plain relu."),
    ] = 8192,
    as_json: AsJson = False,
) -> None:
    """Writes the autoencoder that the subject inherits: the atlas' features at the subject's site.

    In a run both models are read, and each latent gets the threshold at which it is active as often
    as the atlas' feature. A translation's file alone gives an autoencoder without thresholds.
    """
    from atlas_jax.export import calibrated_sae, export_sae

    found, opened = _open(source, site, method)
    if opened is None:
        _tell([export_sae(found, out)], as_json)
        return
    keep_compiled_programs()
    made, card = None, {}
    if tokens:
        texts = [str(opened.corpus.eval[i]) for i in range(min(len(opened.corpus.eval), tokens))]
        made, card = calibrated_sae(found, opened.model, opened.atlas, texts, tokens)
    name = str(opened.recipe["subject"]["model"])
    labels = opened.atlas.labels
    folder = export_sae(found, out, sae=made, labels=labels, model_name=name, card=card)
    _tell([folder], as_json, **card)


def _open(source: Path, site: str | None, method: str) -> tuple[Any, RunFolder | None]:
    """A translation, and the run that it is of."""
    from atlas_jax.translate import Translation

    if source.expanduser().is_file():
        return Translation.load(source.expanduser()), None
    opened = RunFolder(source)
    chosen, *others = opened.choose_sites(None if site is None else [site])
    if others:
        raise InputError(f"Expected --site, one of {', '.join((chosen, *others))}, got none.")
    return opened.translation(chosen, method), opened


def _tell(files: list[Path], as_json: bool, **facts: Any) -> None:
    if as_json:
        written = {"files": [str(file) for file in files], **facts}
        typer.echo(json.dumps(written, ensure_ascii=False, indent=1))
        return
    terminal = Terminal()
    for file in files:
        terminal.line(f"written: {file}")
    for name in ("tokens", "l0", "fve"):
        if name in facts:
            terminal.line(f"{name}: {facts[name]:.4g}")
