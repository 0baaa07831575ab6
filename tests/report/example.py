"""A result of a run with every part present, made from a seed: its numbers mean nothing."""

from __future__ import annotations

import random
from typing import Any

SITES = ("blocks.5.mlp.hook_post", "blocks.9.mlp.hook_post")
METHODS = ("covariance", "correlation", "semantic_lens", "procrustes", "ridge")


def _metric(rng: random.Random, centre: float) -> tuple[list[float], list[float]]:
    values = [min(1.0, max(0.0, rng.gauss(centre, 0.09))) for _ in range(100)]
    mean = sum(values) / len(values)
    return [mean, mean - 0.018, mean + 0.018], values


def _scores(rng: random.Random, auroc: float, ap: float) -> dict[str, Any]:
    roc, rocs = _metric(rng, auroc)
    precision, precisions = _metric(rng, ap)
    return {
        "auroc": roc, "ap": precision, "auroc_per_feature": rocs, "ap_per_feature": precisions
    }  # fmt: skip


def _layers(rng: random.Random) -> dict[str, Any]:
    layers: dict[str, Any] = {}
    for i, site in enumerate(SITES):
        layers[site] = {
            method: _scores(rng, 0.66 + 0.02 * j + 0.03 * i, 0.24 + 0.02 * j)
            for j, method in enumerate(METHODS)
        }
        layers[site]["random"] = _scores(rng, 0.5, 0.14)
    return layers


def _retrieval() -> dict[str, Any]:
    row = {"mrr": 0.31, "mrr_low": 0.27, "mrr_high": 0.35}
    row |= {"mpp": 0.021, "mpp_low": 0.018, "mpp_high": None}
    methods = [{"method": method, **row} for method in METHODS]
    about = {"texts_of_a_set": 20, "source": "held-out texts", "validity": "sets"}
    return {"methods": methods, "random": {"mrr": 0.02, "mpp": 0.005}, **about}


def _samples(rng: random.Random) -> list[dict[str, Any]]:
    tokens = ["The", " old", " dog", " slept", " beside", " the", " stove", "."]
    shaded = {
        "text": "".join(tokens),
        "activation": 4.25,
        "source": "news",
        "tokens": tokens,
        "heat": [round(rng.random() ** 3, 2) for _ in tokens],
    }
    texts = (
        "Her two dogs followed the cart as far as the bridge and then turned back towards home, "
        "where the gate stood open.",
        "A kennel of hounds costs more to feed than the family that keeps it.",
    )
    plain = [
        {"text": text, "activation": 3.1 - i, "source": "wikipedia"} for i, text in enumerate(texts)
    ]
    return [shaded, *plain]


def _query(rng: random.Random, name: str) -> dict[str, Any]:
    features = [
        {"feature": 677 + i, "description": f"{name}, and what belongs to them", "weight": 1 / 3}
        for i in range(3)
    ]
    neurons = [
        {
            "site": SITES[i % 2],
            "feature": 1204 + i,
            "score": 0.41 - 0.05 * i,
            "concepts": features[:2],
            "samples": _samples(rng),
        }
        for i in range(3)
    ]
    return {"name": name, "features": features, "neurons": neurons}


def example() -> dict[str, Any]:
    """The same result at each call."""
    rng = random.Random(0)
    outputs = [
        {"label": "blocks.9", "strength": s, "text": f"and then {'dogs ' * int(s // 10)}came in."}
        for s in (40.0, 10.0, 0.0)
    ]
    curve = [
        {
            "n": n,
            "site": SITES[1],
            "methods": {
                method: {"auroc": 0.5 + 0.03 * i + 0.01 * j, "ap": 0.14 + 0.03 * i + 0.01 * j}
                for j, method in enumerate(METHODS)
            },
        }
        for i, n in enumerate((500, 1000, 2000, 4000, 8000))
    ]
    counts = {
        "sentences": {"news": 2685, "speeches": 33116},
        "unique": {"news": 2498, "speeches": 29138},
        "train": {"news": 300, "speeches": 3700},
    }
    return {
        "title": "Gemma 3 270M read through SmolLM2 135M",
        "created": "2025-01-31T12:00:00+00:00",
        "versions": {"jax": "0.10.2", "atlas-jax": "0.1.0", "python": "3.11.7"},
        "subject": {"name": "gemma-3-270m", "sites": list(SITES), "params": 268_098_176},
        "atlas": {
            "name": "smollm2-block15",
            "model": "smollm2-135m-instruct",
            "site": "blocks.15.hook_resid_post",
            "features": 2048,
            "card": {"fve": 0.643, "l0": 32.0, "dead": 17, "ce_recovered": 0.951},
        },
        "corpus": {"hash": "0123456789abcdef" * 4, "counts": counts, "train": 4000, "eval": 2000},
        "timings": {"corpus": 11.2, "capture": 84.5, "fit": 3.9},
        "quality": {
            "n_samples": 2000,
            "n_features": 100,
            "seed": 0,
            "base_rate": 0.14,
            "layers": _layers(rng),
        },
        "retrieval": {SITES[0]: _retrieval()},
        "learning_curve": curve,
        "queries": [_query(rng, "dogs"), _query(rng, "the weather")],
        "steering": [{"query": "dogs", "prompt": "Yesterday I", "outputs": outputs}],
        "notes": ["The first position of each text is left out."],
        "licences": ["smollm2-135m-instruct: Apache-2.0", "gemma-3-270m: Gemma Terms of Use"],
    }
