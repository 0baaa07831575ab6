"""`atlas-jax corpus`: build the sentences that models are read on; `corpus show`: measure them."""

from __future__ import annotations

import json
import re
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atlas_jax.cli.console import Terminal, reports_errors
from atlas_jax.errors import InputError

if TYPE_CHECKING:
    from typer import Context

    from atlas_jax.corpus import Corpus
else:
    Context = typer.Context.__base__  # what typer passes is not of the class it names

corpus_app = typer.Typer(
    help="Build corpora of sentences, and measure them.",
    no_args_is_help=True,
    invoke_without_command=True,
    rich_markup_mode=None,
)

STAGES = ("documents", "sentences", "length", "letters", "unique", "sampled")
SHARED = ("documents", "sentences", "unique", "sampled")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@corpus_app.callback(
    epilog="Example: atlas-jax corpus --source monology/pile-uncopyrighted --split test -n 1000000"
)
@reports_errors
def build(
    context: Context,
    source: Annotated[
        str,
        typer.Option(
            help="A hub data set (owner/name, owner/name@revision, owner/name:configuration), a "
            ".txt, .jsonl, .csv (all also .gz, .zst) or .parquet file, a folder of them, or "
            "'packages', the text that the package index carries."
        ),
    ] = "packages",
    split: Annotated[str, typer.Option(help="Split of a hub data set.")] = "test",
    n: Annotated[
        int | None, typer.Option("-n", "--sentences", min=1, help="Sentences. [default: all]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draw and the shuffle.")] = 0,
    train_fraction: Annotated[float, typer.Option(help="Share of the training half.")] = 0.5,
    percentiles: Annotated[
        tuple[float, float], typer.Option(help="Of length, between which sentences are kept.")
    ] = (5, 95),
    text_column: Annotated[
        str | None, typer.Option(help="Column of the text. [default: found by its name]")
    ] = None,
    source_column: Annotated[
        str | None,
        typer.Option(help="Column of the source, dots lead inside. [default: found by its name]"),
    ] = None,
    max_documents: Annotated[
        int | None, typer.Option(min=1, help="Read the first so many only. [default: all]")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that split sentences. [default: cores, at most 8]"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder. [default: corpora/<source>-<n>-<seed>]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Builds a corpus as in the paper's appendix A.2: documents to unique sentences in two halves.

    Splits documents into sentences, drops the shortest and longest, those without a letter and
    repeats, and draws so that each source keeps its share. What was interrupted goes on.
    """
    if context.invoked_subcommand is not None:
        return
    from atlas_jax.corpus import build_corpus

    options: dict[str, Any] = {
        "split": split,
        "n": n,
        "seed": seed,
        "train_fraction": train_fraction,
        "percentiles": percentiles,
        "text_column": text_column,
        "source_column": source_column,
        "max_documents": max_documents,
    }
    folder = out or Path("corpora") / _name(source, n, seed)
    terminal = Terminal(quiet=as_json)
    corpus = _built_before(folder, {"source": source} | options)
    if corpus is not None:
        terminal.line(f"{folder} holds this corpus: delete it to build it again.")
    else:
        started = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            corpus = build_corpus(source, **options, workers=workers, out=folder)
        for warning in caught:
            terminal.line(str(warning.message))
        seconds = time.perf_counter() - started
        total = sum(corpus.counts["sentences"].values())
        terminal.line(
            f"{total:,} sentences split in {seconds:.0f} s, {total / seconds:,.0f} a second"
        )
    if as_json:
        typer.echo((folder / "corpus.json").read_text("utf-8"), nl=False)
        return
    _show_counts(corpus, terminal)
    terminal.line(f"{corpus.hash}  {folder}")


@corpus_app.command(
    epilog="Example: atlas-jax corpus show runs/quickstart/corpus --tokenizer gemma-3-270m"
)
@reports_errors
def show(
    folder: Annotated[Path, typer.Argument(help="Folder of the corpus.")],
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Count tokens too: a model's folder, its hub id or an asset's name."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Counts, characters and tokens of a corpus, beside those of the paper's."""
    from atlas_jax.corpus import Corpus
    from atlas_jax.corpus.statistics import PAPER, characters

    corpus = Corpus.load(folder)
    halves = (corpus.train, corpus.eval)
    found: dict[str, Any] = {
        "folder": str(folder),
        "hash": corpus.hash,
        "texts": sum(map(len, halves)),
        "train": len(corpus.train),
        "eval": len(corpus.eval),
        "characters": sum(map(characters, halves[1:]), characters(halves[0])).to_dict(),
        "tokens": None,
        "tokenizer": tokenizer,
    }
    if tokenizer is not None:
        found["tokens"] = _tokens(corpus, tokenizer)
    if as_json:
        typer.echo(json.dumps(found | {"counts": corpus.counts, "paper": PAPER}, indent=1))
        return
    terminal = Terminal()
    rows = [[name, f"{found[name]:,}", f"{PAPER[name]:,}"] for name in ("texts", "train", "eval")]
    for unit in ("characters", "tokens"):
        for key in ("mean", "sd", "min", "max"):
            if found[unit] is not None:
                rows.append(
                    [f"{unit}, {key}", *(_number(s[unit].get(key)) for s in (found, PAPER))]
                )
    terminal.table(["", "this corpus", "the paper's (A.2)"], rows)
    if tokenizer is not None:
        terminal.line(
            f"tokens of {tokenizer}, with BOS where it has one; the paper's: Llama 3.1 8B"
        )
    _show_counts(corpus, terminal)


def _tokens(corpus: Corpus, reference: str) -> dict[str, float] | None:
    """Lengths in tokens, as a model reads the texts: with BOS where it has one."""
    import numpy as np

    from atlas_jax.assets import ASSETS
    from atlas_jax.corpus.statistics import Lengths
    from atlas_jax.models.lookup import find_checkpoint
    from atlas_jax.models.tokenizer import Tokenizer
    from atlas_jax.progress import Bar

    place = Path(reference).expanduser()
    # Of a folder or a hub id, the tokenizer's files are enough.
    whole = reference in ASSETS or place.is_file() or bool(list(place.glob("*.gguf")))
    counter = Tokenizer(find_checkpoint(reference) if whole else place)
    lengths = Lengths()
    with Bar("counting tokens", len(corpus.train) + len(corpus.eval)) as bar:
        for half in (corpus.train, corpus.eval):
            for start in range(0, len(half), 4096):
                rows = counter.encode_batch(half.texts[start : start + 4096])
                lengths += Lengths.of(np.array([len(ids) for ids in rows]))
                bar.advance(len(rows))
    return lengths.to_dict()


def _show_counts(corpus: Corpus, terminal: Terminal) -> None:
    """By source: what each filter left, and the shares that the draw keeps."""
    counts = corpus.counts
    totals = {stage: sum(counts.get(stage, {}).values()) for stage in STAGES}
    numbers, parts = [], []
    for source in sorted({source for stage in STAGES for source in counts.get(stage, {})}):
        row = {stage: counts.get(stage, {}).get(source, 0) for stage in STAGES}
        numbers.append([source, *map(str, row.values())])
        parts.append([source, *(f"{row[s] / (totals[s] or 1):.2%}" for s in SHARED)])
    terminal.table(["source", *STAGES], [*numbers, ["all", *map(str, totals.values())]])
    terminal.table(["source", *(f"of {stage}" for stage in SHARED)], parts)


def _built_before(folder: Path, options: dict[str, Any]) -> Corpus | None:
    """The corpus that lies in a folder, if it was built with these options."""
    from atlas_jax.corpus import Corpus

    if not (folder / "corpus.json").is_file():
        return None
    try:
        corpus = Corpus.load(folder)
    except InputError:
        return None  # damaged: it says to build it again
    wanted = json.loads(json.dumps(options))
    other = [name for name, value in wanted.items() if corpus.meta.get(name) != value]
    if other:
        raise InputError(
            f"Expected {folder} to be free, it holds a corpus of another {', '.join(other)}: name "
            "another folder with --out, or delete it."
        )
    return corpus


def _name(source: str, n: int | None, seed: int) -> str:
    last = re.sub(r"[^\w.-]+", "-", source.strip("/\\").replace("\\", "/").split("/")[-1])
    return f"{last.strip('.-') or 'corpus'}-{n or 'all'}-{seed}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
