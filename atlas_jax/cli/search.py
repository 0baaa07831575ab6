"""`atlas-jax search` and `atlas-jax identify`: which features of the subject carry a concept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from atlas_jax.cli.console import Terminal, keep_compiled_programs, reports_errors
from atlas_jax.pipeline.run_folder import RunFolder, query_facts

RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder of a run, e.g. runs/quickstart.")
]
QueryArgument = Annotated[
    str | None,
    typer.Argument(metavar="QUERY", help="In words, or a file that --save-query wrote."),
]
Features = Annotated[
    str | None, typer.Option(help="Atlas features by number, e.g. 3044,2686, instead of words.")
]
Top = Annotated[int, typer.Option(min=1, help="Atlas features that words become.")]
Sites = Annotated[
    list[str] | None, typer.Option("--site", help="Of the subject; may be repeated. [default: all]")
]
Method = Annotated[str, typer.Option(help="Of the translation.")]
Count = Annotated[int, typer.Option("-k", min=1, help="Subject features to show.")]
SaveQuery = Annotated[Path | None, typer.Option(help="Write the query to a JSON file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@reports_errors
def search(
    run: RunArgument,
    query: QueryArgument = None,
    features: Features = None,
    top: Top = 5,
    site: Sites = None,
    method: Method = "procrustes",
    k: Count = 10,
    save_query: SaveQuery = None,
    as_json: AsJson = False,
) -> None:
    """Ranks the subject's features by a concept, after the atlas features that it became."""
    from atlas_jax.identify import rank_features

    opened = RunFolder(run)
    sites = opened.choose_sites(site)
    asked = opened.query(query, features, top)
    if save_query is not None:
        asked.save(save_query)
    found: list[dict[str, Any]] = []
    for translation in opened.translations(sites, [method]):
        for feature, score in rank_features(translation, asked, min(k, len(translation.matrix))):
            concepts = [
                {"feature": f, "weight": w, "description": opened.atlas.describe(f)}
                for f, w in translation.top_concepts(feature, 3)
            ]
            place = translation.meta["subject"]["site"]
            found.append({"site": place, "feature": feature, "score": score, "concepts": concepts})
    found.sort(key=lambda hit: -hit["score"])
    facts = {"query": query_facts(asked, opened.atlas), "method": method, "found": found[:k]}
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False, indent=1))
        return
    terminal = Terminal()
    print_query(facts["query"], terminal)
    rows = [
        [
            f"{hit['site']} #{hit['feature']}",
            f"{hit['score']:.3f}",
            "; ".join(concept["description"] for concept in hit["concepts"]),
        ]
        for hit in facts["found"]
    ]
    terminal.table(["subject feature", "score", "nearest concepts"], rows)


@reports_errors
def identify(
    run: RunArgument,
    query: QueryArgument = None,
    features: Features = None,
    top: Top = 5,
    site: Sites = None,
    method: Method = "procrustes",
    k: Count = 5,
    samples: Annotated[int, typer.Option(min=1, help="Texts of each.")] = 5,
    save_query: SaveQuery = None,
    as_json: AsJson = False,
) -> None:
    """The subject's features that carry a concept, with the held-out texts that excite them."""
    from dataclasses import asdict

    from atlas_jax.identify import identify as find

    keep_compiled_programs()
    opened = RunFolder(run)
    sites = opened.choose_sites(site)
    asked = opened.query(query, features, top)
    if save_query is not None:
        asked.save(save_query)
    hits = []
    for translation in opened.translations(sites, [method]):
        most = min(k, len(translation.matrix))
        hits += find(translation, asked, opened.held_out, opened.corpus.eval, most, samples)
    hits.sort(key=lambda hit: -hit.score)
    found = []
    for hit in hits[:k]:
        row = asdict(hit)
        row["concepts"] = [
            {"feature": f, "weight": w, "description": opened.atlas.describe(f)}
            for f, w in hit.concepts
        ]
        found.append(row)
    facts = {"query": query_facts(asked, opened.atlas), "method": method, "found": found}
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False, indent=1))
        return
    terminal = Terminal()
    print_query(facts["query"], terminal)
    for hit in found:
        terminal.line(f"{hit['site']} #{hit['feature']}: score {hit['score']:.3f}")
        for concept in hit["concepts"]:
            terminal.line(f"    {concept['weight']:.2f}  {concept['description']}")
        rows = [[f"{s['activation']:.2f}", " ".join(s["text"].split())] for s in hit["samples"]]
        terminal.table(["activation", "held-out text"], rows)


def print_query(facts: dict[str, Any], terminal: Terminal) -> None:
    """A query's atlas features, a line for each."""
    terminal.line(f'query "{facts["name"]}"')
    for one in facts["features"]:
        terminal.line(
            f"    {one['weight']:.2f}  atlas feature {one['feature']}: {one['description']}"
        )
