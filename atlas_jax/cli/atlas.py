"""`atlas-jax atlas ...`: make, label and look into Concept Atlases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from atlas_jax.cli.console import Terminal, reports_errors
from atlas_jax.errors import InputError

atlas_app = typer.Typer(
    help="Train, label and look into Concept Atlases.", no_args_is_help=True, rich_markup_mode=None
)

Folder = Annotated[Path, typer.Argument(help="Folder of the atlas.")]
Recordings = Annotated[
    Path | None, typer.Option(help="Recorded activations. [default: <folder>/recordings]")
]


@atlas_app.command(
    epilog="Example: atlas-jax atlas train runs/atlas --model smollm2-135m-instruct "
    "--site blocks.12.hook_resid_post"
)
@reports_errors
def train(
    folder: Folder,
    model: Annotated[str, typer.Option(help="Whose activations.")] = "smollm2-135m-instruct",
    site: Annotated[str, typer.Option(help="Which activations.")] = "blocks.12.hook_resid_post",
    source: Annotated[
        str, typer.Option(help="Texts: 'packages', a hub data set, a file or a folder.")
    ] = "packages",
    tokens: Annotated[int, typer.Option(min=1000, help="Tokens to record.")] = 1_032_192,
    features: Annotated[int, typer.Option(min=2, help="Width of the autoencoder.")] = 4096,
    k: Annotated[int, typer.Option(min=1, help="Features of a token, on average.")] = 32,
    epochs: Annotated[float, typer.Option(min=0.01, help="Passes over the tokens.")] = 3.0,
    seed: Annotated[int, typer.Option(help="Of shuffling and initialisation.")] = 0,
    recordings: Recordings = None,
) -> None:
    """Records a site on texts, trains a sparse autoencoder on it and measures the result.

    Every part resumes. Writes cfg.json, sae_weights.safetensors (SAELens) and card.json.
    """
    from atlas_jax.atlas import Recipe, collect, measure_card, train_atlas
    from atlas_jax.corpus import documents
    from atlas_jax.models import load_model

    terminal = Terminal()
    subject = load_model(model)
    texts = list(documents(source))
    acts = collect(
        subject,
        [document.text for document in texts],
        site,
        recordings or folder / "recordings",
        n_tokens=tokens,
        seed=seed,
    )
    recipe = Recipe(n_features=features, k=k, cap=2 * k, epochs=epochs, seed=seed)
    sae = train_atlas(acts, folder, site, model, recipe, report=terminal.line)
    counts: dict[str, int] = {}
    for document in texts:
        counts[document.source] = counts.get(document.source, 0) + len(document.text)
    card = measure_card(sae, acts, subject, site)
    card |= {"model": model, "site": site, "seed": seed, "characters": counts}
    (folder / "card.json").write_text(json.dumps(card, indent=1))
    for key, value in card.items():
        if isinstance(value, int | float):
            terminal.line(f"{key}: {value:.4g}")


@atlas_app.command(epilog="Example: atlas-jax atlas label runs/atlas")
@reports_errors
def label(folder: Folder, recordings: Recordings = None) -> None:
    """Describes every feature from the contexts that activate it most; writes labels.jsonl."""
    from atlas_jax.atlas import SentenceEmbedder, label_atlas, load_saelens, open_activations
    from atlas_jax.models import load_model

    acts = open_activations(recordings or folder / "recordings")
    labels = label_atlas(
        folder, acts, load_model(load_saelens(folder).model_name), SentenceEmbedder()
    )
    terminal = Terminal()
    for feature in sorted(labels.descriptions)[:10]:
        terminal.line(f"{feature}: {labels[feature][0]}")
    terminal.line(f"{len(labels)} features described in {folder / 'labels.jsonl'}")


@atlas_app.command(
    epilog="Examples: atlas-jax atlas show 1089 --contexts runs/quickstart; "
    "atlas-jax atlas show --search 'the sea and ships'"
)
@reports_errors
def show(
    feature: Annotated[int | None, typer.Argument(help="A feature's number.")] = None,
    search: Annotated[str | None, typer.Option(help="Find features by a text instead.")] = None,
    atlas: Annotated[
        str, typer.Option(help="One that ships, a folder, a SAELens release/id, or a hub path.")
    ] = "smollm2-135m-12-4k",
    labels: Annotated[
        Path | None, typer.Option(help="Descriptions. [default: those beside the atlas]")
    ] = None,
    contexts: Annotated[
        Path | None,
        typer.Option(
            help="Recorded activations, or a run folder, to take contexts from. "
            "[default: <atlas>/recordings, if there]"
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Contexts, neighbours or hits to show.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Shows a feature (labels, density, top contexts, nearest features), or finds some by a text.

    With neither: what the atlas is, and how much of it is described.
    """
    from atlas_jax.atlas import load_atlas
    from atlas_jax.cli.feature import feature_facts, print_feature

    if feature is not None and search is not None:
        raise InputError("Expected a feature's number or --search TEXT, got both.")
    loaded = load_atlas(atlas, labels=labels)
    terminal = Terminal(quiet=as_json)
    if feature is not None:
        facts = feature_facts(loaded, feature, contexts or Path(atlas) / "recordings", top)
        if contexts is not None and facts["density"] is None:
            raise InputError(f"Expected recorded activations or a run folder, got {contexts}.")
        print_feature(facts, terminal)
    elif search is not None:
        query = loaded.query(text=search, top=top)
        rows = zip(query.features, query.weights, query.descriptions, strict=True)
        found = [{"feature": f, "similarity": w, "description": t} for f, w, t in rows]
        facts = {"text": query.name, "found": found}
        cells = [[str(f), f"{w:.2f}", t] for f, w, t in (tuple(row.values()) for row in found)]
        terminal.table(["feature", "similarity", "description"], cells)
    else:
        share = loaded.labels.coverage(loaded.sae.n_features)
        facts = {
            "name": loaded.name,
            "site": loaded.site,
            "features": loaded.sae.n_features,
            "width": loaded.sae.width,
            "architecture": loaded.sae.architecture,
            "described": share,
            "card": loaded.card,
        }
        terminal.line(repr(loaded))
        for key, value in loaded.card.items():
            if isinstance(value, int | float | str):
                shown = value if isinstance(value, int | str) else f"{value:.4g}"
                terminal.line(f"{key}: {shown}")
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False, indent=1))
