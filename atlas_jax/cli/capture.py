"""`atlas-jax capture`: record a model's activations on a corpus."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from atlas_jax.cli.console import Terminal, keep_compiled_programs, reports_errors
from atlas_jax.errors import InputError


@reports_errors
def capture(
    model: Annotated[
        str, typer.Argument(help="A model (name, folder, GGUF file, hub id), or an atlas.")
    ],
    corpus: Annotated[Path, typer.Option(help="Folder of a corpus.")],
    out: Annotated[str, typer.Option(help="Folder or URL (s3://, gs://) of the store.")],
    sites: Annotated[
        list[str] | None,
        typer.Option(help="Sites; repeat, or separate by commas. [default: the model's own]"),
    ] = None,
    pool: Annotated[
        list[str] | None,
        typer.Option(help="max, mean, absmax, last, or several; or tokens. [default: max]"),
    ] = None,
    half: Annotated[str, typer.Option(help="Half of the corpus: train or eval.")] = "train",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first texts.")] = None,
    dtype: Annotated[
        str, typer.Option(help="Of the model's arithmetic: float32 or bfloat16.")
    ] = "float32",
    store_dtype: Annotated[
        str | None,
        typer.Option(help="Of the stored values, float16 too. [default: the model's]"),
    ] = None,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Positions of a batch.")] = 2048,
    max_tokens: Annotated[int, typer.Option(min=2, help="Longer texts are cut.")] = 512,
    split: Annotated[
        int, typer.Option(min=1, help="Devices that share the weights; the others share batches.")
    ] = 1,
    top: Annotated[
        int, typer.Option(min=0, help="Also save the texts that activate each feature most.")
    ] = 0,
    coordinator: Annotated[
        str | None, typer.Option(help="Of several processes: host and port of process 0.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="How many processes record.")] = 1,
    process: Annotated[int, typer.Option(min=0, help="The number of this one.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Records what a model does on every text of a corpus. Resumes what was interrupted.

    All sites and poolings come out of one pass. At the end it says what was the limit: the forward
    pass or the disk.
    """
    from atlas_jax.activations import capture
    from atlas_jax.corpus import Corpus
    from atlas_jax.parallel import barrier, leads, models_mesh, start_processes

    if half not in ("train", "eval"):
        raise InputError(f"Expected --half train or eval, got '{half}'.")
    if processes > 1 and coordinator is None:
        raise InputError(f"Expected --coordinator HOST:PORT for {processes} processes.")
    if processes > 1:
        start_processes(coordinator, processes, process)
    else:
        start_processes()
    texts = getattr(Corpus.load(corpus), half)
    texts = texts if limit is None else texts[:limit]
    keep_compiled_programs()
    terminal = Terminal(quiet=as_json or not leads())
    mesh = models_mesh(split)
    source = _source(model, dtype, mesh)
    terminal.line(repr(source))
    try:
        store = capture(
            source,
            texts,
            _names(sites),
            out=out,
            pool=_names(pool) or "max",
            dtype=store_dtype,
            batch_tokens=batch_tokens,
            max_tokens=max_tokens,
        )
        for site in store.sites if top and leads() else ():
            for name in store.pools(site):
                store.top_samples(site, top, name)
        barrier("the top samples are saved")
    except KeyboardInterrupt:
        _say_how_to_go_on(out)
        raise typer.Exit(130) from None
    if as_json and leads():
        typer.echo(json.dumps({"url": store.url, **store.meta, "report": store.report}, indent=1))
        return
    terminal.line(repr(store))
    for report in store.report:
        terminal.line(report["text"])


def _source(reference: str, dtype: str, mesh: Any) -> Any:
    from atlas_jax.atlas import load_atlas, released
    from atlas_jax.models import load_model

    if reference in released() or (Path(reference).expanduser() / "cfg.json").is_file():
        return load_atlas(reference, dtype=dtype, mesh=mesh)
    return load_model(reference, dtype=dtype, mesh=mesh)


def _names(values: list[str] | None) -> tuple[str, ...] | None:
    found = [part.strip() for value in values or () for part in value.split(",")]
    return tuple(part for part in found if part) or None


def _say_how_to_go_on(out: str) -> None:
    from atlas_jax.activations.store import progress_of

    try:
        _, done, total = progress_of(out)
        kept = f"{done} of {total} parts are on disk"
    except InputError:
        kept = "nothing is on disk yet"
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    print(f"\natlas-jax: stopped; {kept}. To go on: {command}", file=sys.stderr)
