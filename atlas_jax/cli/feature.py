"""One feature of an atlas, gathered and printed: labels, density, top contexts, neighbours."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from atlas_jax.atlas import Atlas, open_activations
from atlas_jax.atlas.contexts import FeatureUse, use_in_texts, use_in_tokens
from atlas_jax.cli.console import Terminal


def feature_facts(atlas: Atlas, feature: int, source: Path, top: int) -> dict[str, Any]:
    """What is known of a feature; its use is None where `source` holds no recordings.

    Raises:
        InputError: no such feature.
    """
    atlas.check([feature])
    use = _use(atlas, feature, source, top)
    return {
        "feature": feature,
        "labels": [asdict(label) for label in atlas.labels.features.get(feature, ())],
        "density": None if use is None else use.density,
        "counted": None if use is None else use.counted,
        "unit": None if use is None else use.unit,
        "contexts": [] if use is None else [asdict(context) for context in use.contexts],
        "nearest": [
            {"feature": f, "cosine": c, "description": atlas.describe(f)}
            for f, c in atlas.nearest(feature, top)
        ],
    }


def _use(atlas: Atlas, feature: int, source: Path, top: int) -> FeatureUse | None:
    if (source / "acts.npy").exists():
        acts = open_activations(source)
        return use_in_tokens(atlas.sae, feature, acts, atlas.max_norm, atlas.tokenizer, top)
    store = source / "activations" / "train" / "atlas"
    if not (store / "meta.json").exists():
        return None
    from atlas_jax.activations import ActivationStore
    from atlas_jax.corpus import Corpus

    rows = ActivationStore.open(store)[atlas.feature_site]
    if not str(rows.meta.get("fingerprint", "")).startswith(f"{atlas.identity}."):
        return None
    texts = Corpus.load(source / "corpus").train.texts
    return use_in_texts(rows.columns([feature])[:, 0].astype("float32"), texts, top)


def print_feature(facts: dict[str, Any], terminal: Terminal) -> None:
    """Prints what `feature_facts` gathered."""
    labels = facts["labels"] or [{"text": "(no description)", "source": "", "score": None}]
    for i, label in enumerate(labels):
        head = f"{facts['feature']}: " if i == 0 else " " * (len(str(facts["feature"])) + 2)
        terminal.line(f"{head}{label['text']}{_origin(label)}")
    if facts["density"] is None:
        terminal.line(
            "density and top contexts: nothing recorded here; with --contexts, give a run folder "
            "(`atlas-jax quickstart` writes one) or recordings"
        )
    else:
        counted = f"{facts['counted']:,} {facts['unit']}"
        terminal.line(f"density: active on {facts['density']:.3%} of {counted}")
        rows = []
        for c in facts["contexts"]:
            bare = c["token"].strip()
            token = c["token"].replace(bare, f"»{bare}«") if bare else "»«"
            text = " ".join(f"{c['before']}{token if c['token'] else ''}{c['after']}".split())
            rows.append([f"{c['activation']:.2f}", text])
        if rows:
            terminal.table(["activation", "context"], rows)
    nearest = facts["nearest"]
    rows = [[str(n["feature"]), f"{n['cosine']:.2f}", n["description"]] for n in nearest]
    terminal.table(["nearest", "cosine", "description"], rows)


def _origin(label: dict[str, Any]) -> str:
    """Who wrote a label, and its score, where known."""
    score = "" if label["score"] is None else f"score {label['score']:.2f}"
    known = ", ".join(part for part in (label["source"], score) if part)
    return f"  [{known}]" if known else ""
