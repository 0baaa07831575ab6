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


@atlas_app.command(epilog="Example: atlas-jax atlas show --search 'the sea and ships'")
@reports_errors
def show(
    feature: Annotated[int | None, typer.Argument(help="A feature's number.")] = None,
    search: Annotated[str | None, typer.Option(help="Find features by a text instead.")] = None,
    atlas: Annotated[str, typer.Option(help="An atlas that ships, or a folder.")] = (
        "smollm2-135m-12-4k"
    ),
) -> None:
    """Shows a feature and those nearest to it, or finds features by a text."""
    import numpy as np

    from atlas_jax.atlas import load_atlas

    if (feature is None) == (search is None):
        raise InputError("Expected a feature's number or --search TEXT, one of the two.")
    loaded = load_atlas(atlas)
    terminal = Terminal()
    if search is not None:
        query = loaded.query(text=search, top=10)
        pairs = zip(query.features, query.weights, strict=True)
        rows = [[str(f), f"{w:.2f}", loaded.describe(f)] for f, w in pairs]
        terminal.table(["feature", "similarity", "description"], rows)
        return
    assert feature is not None
    terminal.line(f"{feature}: {loaded.describe(feature)}")
    decoder = np.asarray(loaded.sae.W_dec, np.float32)
    unit = decoder / np.maximum(np.linalg.norm(decoder, axis=1, keepdims=True), 1e-12)
    cosines = unit @ unit[feature]
    nearest = [int(i) for i in np.argsort(-cosines) if i != feature][:5]
    rows = [[str(i), f"{cosines[i]:.2f}", loaded.describe(i)] for i in nearest]
    terminal.table(["feature", "cosine", "description"], rows)
