"""`atlas-jax atlas ...`: make, label and look into Concept Atlases."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from atlas_jax.cli.console import Terminal, reports_errors
from atlas_jax.errors import InputError
from atlas_jax.files import sealed, write_json

atlas_app = typer.Typer(
    help="Train, label and look into Concept Atlases.", no_args_is_help=True, rich_markup_mode=None
)

Folder = Annotated[Path, typer.Argument(help="Folder of the atlas.")]
Recordings = Annotated[
    Path | None, typer.Option(help="Recorded activations. [default: <folder>/recordings]")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


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
    tokens: Annotated[int, typer.Option(min=1000, help="Tokens to train on.")] = 1_032_192,
    length: Annotated[int, typer.Option(min=2, help="Tokens of a context.")] = 64,
    heldout: Annotated[int, typer.Option(min=1, help="Contexts kept for the card.")] = 512,
    architecture: Annotated[
        str, typer.Option(help="batch_top_k, top_k or jumprelu.")
    ] = "batch_top_k",
    features: Annotated[int, typer.Option(min=1, help="Width of the autoencoder.")] = 4096,
    k: Annotated[int, typer.Option(min=1, help="Features of a token.")] = 32,
    batch: Annotated[int, typer.Option(min=1, help="Tokens of a step.")] = 2048,
    epochs: Annotated[float, typer.Option(min=0.001, help="Passes over the tokens.")] = 3.0,
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2.5e-3,
    dtype: Annotated[str, typer.Option(help="Of the products: float32 or bfloat16.")] = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Of shuffling and initialisation.")] = 0,
    live: Annotated[
        bool, typer.Option(help="Train straight from the model: no recording, nothing stored.")
    ] = False,
    wide: Annotated[bool, typer.Option(help="Record as float32, not float16.")] = False,
    recordings: Recordings = None,
    as_json: AsJson = False,
) -> None:
    """Records a site on texts, trains a sparse autoencoder on it and measures the result.

    Every part resumes. Writes cfg.json, sae_weights.safetensors (SAELens), card.json and
    training.json. Several devices share each batch.
    """
    from dataclasses import asdict

    import jax

    from atlas_jax.atlas import Recipe, collect, load_saelens, measure_card, train_atlas
    from atlas_jax.corpus import documents
    from atlas_jax.models import load_model
    from atlas_jax.parallel import make_mesh

    terminal = Terminal(quiet=as_json)
    recipe = Recipe(
        architecture=architecture,
        n_features=features,
        k=k,
        batch=batch,
        epochs=epochs,
        rate=rate,
        dtype=dtype,
        seed=seed,
    )
    subject = load_model(model)
    texts = list(documents(source))
    if live:
        acts = _live(subject, texts, site, tokens, length, seed)
    else:
        acts = collect(
            subject,
            [document.text for document in texts],
            site,
            recordings or folder / "recordings",
            n_tokens=tokens,
            length=length,
            seed=seed,
            dtype="float32" if wide else "float16",
        )
    mesh = make_mesh() if jax.device_count() > 1 else None
    sae = train_atlas(
        acts, folder, site, model, recipe, heldout=heldout, report=terminal.line, mesh=mesh
    )
    limit = load_saelens(folder).max_norm
    counts: dict[str, int] = {}
    for document in texts:
        counts[document.source] = counts.get(document.source, 0) + len(document.text)
    card = {"model": model, "site": site, "characters": counts, "recipe": asdict(recipe)}
    card |= {"training_tokens": (len(acts.tokens) - heldout) * (length - 1)}
    card |= {"context_length": length}
    card |= measure_card(sae, acts, subject, site, max_norm=limit, heldout=heldout)
    write_json(folder / "card.json", sealed(card))
    if as_json:
        typer.echo(json.dumps(card, indent=1))
    for key, value in card.items():
        if isinstance(value, int | float):
            terminal.line(f"{key}: {value:.4g}")


def _live(subject: Any, texts: Sequence[Any], site: str, tokens: int, length: int, seed: int):
    from atlas_jax.atlas import ModelActivations, cut_contexts

    contexts = cut_contexts(
        subject.tokenizer, [document.text for document in texts], tokens, length, seed
    )
    return ModelActivations(subject, site, contexts)


@atlas_app.command(
    epilog="Example: atlas-jax atlas label runs/atlas --by statistics --by endpoint "
    "--url http://localhost:8000/v1 --ask qwen3-8b --features 0-99"
)
@reports_errors
def label(
    folder: Folder,
    by: Annotated[
        list[str] | None,
        typer.Option(help="statistics, vocabulary, endpoint or model; may be repeated."),
    ] = None,
    features: Annotated[str, typer.Option(help="Which, e.g. '0-99,512'. [default: all]")] = "",
    url: Annotated[str, typer.Option(help="An OpenAI-compatible endpoint, with its /v1.")] = "",
    ask: Annotated[str, typer.Option(help="Model to ask: at the endpoint, or to run here.")] = "",
    key: Annotated[
        str, typer.Option(help="Environment variable that holds the endpoint's key.")
    ] = "OPENAI_API_KEY",
    source: Annotated[
        str, typer.Option(help="Texts to read now, where nothing was recorded.")
    ] = "",
    tokens: Annotated[int, typer.Option(min=1000, help="With --source: how many.")] = 500_000,
    length: Annotated[int, typer.Option(min=2, help="With --source: tokens of a context.")] = 64,
    recordings: Recordings = None,
    as_json: AsJson = False,
) -> None:
    """Describes features from the contexts that activate them most; writes labels.jsonl.

    Each description has its source and a score: how well the words alone tell excerpts on which
    the feature is active from others (AUROC, on contexts they were not made from; 0.5 is chance).
    """
    from atlas_jax.assets import cache_folder
    from atlas_jax.atlas import SentenceEmbedder, label_atlas, load_saelens, open_activations
    from atlas_jax.corpus import documents
    from atlas_jax.endpoint import Endpoint
    from atlas_jax.models import load_model

    terminal, by = Terminal(quiet=as_json), by or ["statistics"]
    if {"endpoint", "model"} <= set(by):
        raise InputError("Expected one of --by endpoint and --by model at a time, got both.")
    endpoint = explainer = None
    if "endpoint" in by:
        endpoint = Endpoint(url, ask, key, cache_folder() / "answers")
    loaded = load_saelens(folder)
    subject = load_model(loaded.model_name)
    if "model" in by:
        if not ask:
            raise InputError("Expected --ask with the model to run here, got none.")
        explainer = subject if ask == loaded.model_name else load_model(ask)
    if source:
        acts = _live(subject, list(documents(source)), loaded.site, tokens, length, 0)
    else:
        acts = open_activations(recordings or folder / "recordings")
    found = label_atlas(
        folder,
        acts,
        subject,
        SentenceEmbedder(),
        by,
        features=_numbers(features),
        endpoint=endpoint,
        explainer=explainer,
    )
    means: dict[str, list[float]] = {}
    pairs = list(found.pairs())
    for _, one in pairs:
        if one.score is not None:
            means.setdefault(one.source, []).append(one.score)
    if as_json:
        typer.echo(json.dumps(found.rows(), ensure_ascii=False))
    for feature, one in pairs[:10]:
        score = "-" if one.score is None else f"{one.score:.2f}"
        terminal.line(f"{feature} [{score}] {one.text}")
    for name, scores in means.items():
        mean = sum(scores) / len(scores)
        terminal.line(f"{name}: {len(scores)} descriptions scored, mean AUROC {mean:.3f}")
    if endpoint is not None:
        terminal.line(repr(endpoint))
    terminal.line(f"{len(pairs)} descriptions in {folder / 'labels.jsonl'}")


def _numbers(text: str) -> list[int] | None:
    """'0-3,7' -> [0, 1, 2, 3, 7]; None for an empty text."""
    found: list[int] = []
    try:
        for part in filter(None, text.replace(" ", "").split(",")):
            first, _, last = part.partition("-")
            found += range(int(first), int(last or first) + 1)
    except ValueError:
        raise InputError(f"Expected features like '0-99,512', got '{text}'.") from None
    return found or None


@atlas_app.command(
    epilog="Examples: atlas-jax atlas show 3044 --contexts runs/quickstart; "
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
