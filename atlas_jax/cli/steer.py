"""`atlas-jax steer`: continuations of prompts, steered towards a concept beside unsteered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from atlas_jax.cli.console import Terminal, keep_compiled_programs, reports_errors
from atlas_jax.cli.search import (
    AsJson,
    Features,
    Method,
    QueryArgument,
    RunArgument,
    SaveQuery,
    Sites,
    Top,
    print_query,
)
from atlas_jax.errors import InputError
from atlas_jax.pipeline.run_folder import RunFolder, query_facts


@reports_errors
def steer(
    run: RunArgument,
    query: QueryArgument = None,
    features: Features = None,
    top: Top = 5,
    site: Sites = None,
    method: Method = "procrustes",
    strength: Annotated[
        list[float] | None,
        typer.Option(help="Lambda of eq. 4; may be repeated. [default: those of the run, or 4]"),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="May be repeated. [default: that of the run]")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="A file with a prompt on each line.")] = None,
    each: Annotated[
        bool, typer.Option(help="Also steer at each site alone, not just at all of them.")
    ] = False,
    mode: Annotated[str, typer.Option(help="steer (eq. 4), add, ablate or clamp.")] = "steer",
    new_only: Annotated[
        bool, typer.Option("--new-only", help="Edit the new tokens, and not the prompt's.")
    ] = False,
    chat: Annotated[bool, typer.Option(help="Answer through the model's chat template.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of each continuation.")] = 40,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of samples.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts at once.")] = 32,
    out: Annotated[
        Path | None, typer.Option(help="JSONL file to stream to; resumes. [default: none]")
    ] = None,
    save_query: SaveQuery = None,
    as_json: AsJson = False,
) -> None:
    """Continues prompts while the subject is steered along a concept, and shows both texts.

    With --out each batch is written as it is done, and the same command goes on where it stopped.
    """
    from atlas_jax.steering import Plan, Sampling, steer_query, write_steered

    keep_compiled_programs()
    opened = RunFolder(run)
    sites = opened.choose_sites(site)
    defaults = opened.recipe.get("steer", {})
    asked = _prompts(prompt, prompts, defaults.get("prompt", ""))
    strengths = list(strength or defaults.get("strengths") or [4.0])
    sampling = Sampling(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        chat=chat,
        edit_prompt=not new_only,
    )
    found = opened.query(query, features, top)
    if save_query is not None:
        found.save(save_query)
    maps = {s: opened.translation(s, method) for s in sites}
    places: dict[str, tuple[str, ...]] = {s: (s,) for s in sites if each or not sites[1:]}
    if sites[1:]:
        places["all sites"] = sites
    plans = [Plan({"query": found.name, "method": method, "place": "unsteered", "strength": 0.0})]
    for place, where in places.items():
        for value in strengths:
            edits = steer_query({s: maps[s] for s in where}, found, value, mode)
            label = {"query": found.name, "method": method, "place": place, "strength": value}
            plans.append(Plan(label, edits))
    by_plan = write_steered(opened.model, plans, asked, out, sampling, batch_size)
    facts = {"query": query_facts(found, opened.atlas), "mode": mode}
    if as_json:
        rows = [row for plan in by_plan for row in plan]
        typer.echo(json.dumps(facts | {"texts": rows}, ensure_ascii=False, indent=1))
        return
    terminal = Terminal()
    print_query(facts["query"], terminal)
    for i, text in enumerate(asked):
        terminal.line(f'"{text} ..."')
        terminal.table(
            ["where", "strength", "continuation"],
            [_row(plan[i]) for plan in by_plan],
        )
    if out is not None:
        terminal.line(f"{sum(map(len, by_plan))} texts in {out}")


def _row(row: dict[str, Any]) -> list[str]:
    return [row["place"], f"{row['strength']:g}", " ".join(row["text"].split())]


def _prompts(given: list[str] | None, file: Path | None, default: str) -> list[str]:
    found = list(given or ())
    if file is not None:
        try:
            found += [line for line in file.expanduser().read_text("utf-8").splitlines() if line]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"Expected a text file of prompts at {file}: {error}.") from None
    found = found or [default]
    if not all(found):
        raise InputError("Expected a prompt to continue: --prompt 'Once upon a time'.")
    return found
