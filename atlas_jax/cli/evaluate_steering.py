"""`atlas-jax evaluate steering`: faithfulness of steering on a run, as in the paper's table 5."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atlas_jax.cli.console import Terminal, keep_compiled_programs, reports_errors
from atlas_jax.cli.search import AsJson, RunArgument, Sites
from atlas_jax.errors import InputError
from atlas_jax.pipeline.run_folder import RunFolder

if TYPE_CHECKING:
    from atlas_jax.evaluate import Judge
    from atlas_jax.query import Query

EXAMPLE = (
    "Example: atlas-jax evaluate steering runs/quickstart --strength -4 --strength 4 "
    "--judge embedding --judge lexical --concept 'dogs and cats' --concept eating"
)


@reports_errors
def steering(
    run: RunArgument,
    concept: Annotated[
        list[str] | None,
        typer.Option(help="To steer towards; may be repeated. [default: the protocol's ten]"),
    ] = None,
    site: Sites = None,
    method: Annotated[
        list[str] | None, typer.Option(help="May be repeated. [default: procrustes]")
    ] = None,
    strength: Annotated[
        list[float] | None,
        typer.Option(help="Lambda; may be repeated. [default: -50 -10 -1 0 1 10 50]"),
    ] = None,
    prompts: Annotated[
        int | None, typer.Option(min=1, help="The first so many of the protocol's. [default: 16]")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of each continuation.")] = 100,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of the subject; 0: greedy.")] = 0.0,
    judge: Annotated[
        list[str] | None,
        typer.Option(help="endpoint, embedding or lexical; may be repeated. [default: embedding]"),
    ] = None,
    url: Annotated[str, typer.Option(help="An OpenAI-compatible endpoint, with its /v1.")] = "",
    ask: Annotated[str, typer.Option(help="The judging model's name there.")] = "",
    key: Annotated[
        str, typer.Option(help="Environment variable that holds the endpoint's key.")
    ] = "OPENAI_API_KEY",
    samples: Annotated[int, typer.Option(min=1, help="Answers of the judge, for a median.")] = 3,
    price: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Of a million tokens: prompt, completion. Adds the cost to the report."),
    ] = None,
    combined: Annotated[bool, typer.Option(help="Also steer at all sites at once.")] = True,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts at once.")] = 32,
    seed: Annotated[int, typer.Option(help="Of random directions and intervals.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder. [default: RUN/reports/steering]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Steers along concepts and along random directions, and has a judge say what it sees.

    Faithfulness (eq. 5) and the change of the concepts' atlas features, with 95 % intervals. Texts,
    readings and ratings are kept in the folder: the same command goes on where it stopped.
    """
    from atlas_jax.evaluate import evaluate_steering, paper_protocol, protocol_queries
    from atlas_jax.evaluate.steering_tables import steered_examples
    from atlas_jax.pipeline.evaluation import save_evaluation
    from atlas_jax.steering import Sampling

    keep_compiled_programs()
    terminal = Terminal(quiet=as_json)
    opened = RunFolder(run)
    sites = opened.choose_sites(site)
    methods = list(dict.fromkeys(method or ["procrustes"]))
    queries, missing = protocol_queries(opened.atlas, concept)
    for name, reason in missing.items():
        terminal.line(f"left out: {name}. {reason}")
    names = list(dict.fromkeys(judge or ["embedding"]))
    identified = _identified(opened, queries, sites, methods[0])  # first: a lost store is said now
    report = evaluate_steering(
        opened.model,
        opened.atlas,
        opened.translations(sites, methods),
        queries,
        judges=[_judge(name, queries, url, ask, key, samples, price) for name in names],
        prompts=paper_protocol().prompts[:prompts],
        strengths=strength or None,
        combined=combined,
        sampling=Sampling(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed),
        out=(folder := out or opened.folder / "reports" / "steering"),
        batch_size=batch_size,
        seed=seed,
        left_out=missing,
    )
    place = report.places[-1]
    examples = steered_examples(report, methods[0], place)
    facts: dict[str, Any] = report.to_dict()
    facts["examples"] = {"method": methods[0], "place": place, "rows": examples}
    facts["identified"] = identified
    written = save_evaluation("steering", facts, folder)
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False, indent=1))
        return
    for name in names:
        _show(report.rows(name), name, terminal)
    for pair in facts["agreement"]:
        terminal.line(
            f"{' and '.join(pair['judges'])}: the same rating on {pair['same']:.0%} of {pair['n']} "
            f"texts, kappa {_number(pair['plain_kappa'])}, quadratic "
            f"{_number(pair['quadratic_kappa'])}"
        )
    rows = [
        [e["query"], f"{e['strength']:g}", e["prompt"], _line(e["unsteered"]), _line(e["steered"])]
        for e in examples
    ]
    terminal.table([f"steered at {place}", "strength", "prompt", "unsteered", "steered"], rows)
    terminal.line(f"{', '.join(path.name for path in written)} in {folder}")


def _identified(
    opened: RunFolder, queries: Mapping[str, Query], sites: Sequence[str], method: str
) -> list[dict[str, Any]]:
    from atlas_jax.evaluate.steering_tables import identification_rows
    from atlas_jax.identify import Hit, identify

    best: dict[str, Hit] = {}
    for translation in opened.translations(sites, [method]):
        for name, query in queries.items():
            hit, *_ = identify(translation, query, opened.held_out, opened.corpus.eval, 1, 1)
            if name not in best or hit.score > best[name].score:
                best[name] = hit
    return [row for name, hit in best.items() for row in identification_rows(name, [hit])]


def _judge(
    name: str,
    queries: Mapping[str, Query],
    url: str,
    ask: str,
    key: str,
    samples: int,
    price: tuple[float, float] | None,
) -> Judge:
    from atlas_jax.assets import cache_folder
    from atlas_jax.endpoint import Endpoint
    from atlas_jax.evaluate import JUDGES

    if name not in JUDGES:
        raise InputError(f"Expected a judge among {', '.join(JUDGES)}, got '{name}'.")
    if name == "endpoint":
        place = Endpoint(url, ask, key, cache_folder() / "answers", temperature=1.0, max_tokens=512)
        return JUDGES[name](place, samples=samples, prices=price)
    if name == "lexical":
        return JUDGES[name]({concept: query.descriptions for concept, query in queries.items()})
    return JUDGES[name]()


def _show(rows: list[dict[str, Any]], judge: str, terminal: Terminal) -> None:
    from atlas_jax.evaluate.tables import METHOD_NAMES, interval_cell

    metrics = ("faithfulness", "held_out", "delta_activation")
    cells = [
        [
            METHOD_NAMES.get(row["method"], row["method"]),
            row["place"],
            *(interval_cell(row, metric, 2) for metric in metrics),
        ]
        for row in rows
    ]
    heads = ["faithfulness, %", "held out, %", "change of activation"]
    terminal.table([f"judge: {judge}", "where", *heads], cells)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _line(text: str) -> str:
    return " ".join(text.split())
