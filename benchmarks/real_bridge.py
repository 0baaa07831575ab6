"""A bridge between two real models: how much it explains, and what its directions detect.

    python benchmarks/real_bridge.py                 SmolLM2-135M block 12 <-> Gemma-3-270M
    python benchmarks/real_bridge.py --pairs 1000 --features 20 --held-texts 40    a quick look

Pairs of tokens of whole passages are read once, at several layers of Gemma side by side, and kept
in `--folder`; a run that was stopped goes on there. From them, for each layer: bridges both ways,
and those of wrong pairs. For the atlas' decoder rows d_f over the bridge: reliability, split half,
the check by regression, and co-firing: the AUROC with which the largest <h_target, M d_f> over a
held-out text's tokens tells the texts on which feature f fires in the source, against random
directions sent over the same bridge, random ones of the target, and the bridge of wrong pairs.
Intervals are over features. The layer is chosen by the variance that its bridge explains, never by
what it detects.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measure import machine, options, save, use_threads
from passages import passages
from side_by_side import SideBySide, read_pairs

SOURCE_SITE, TARGET = "blocks.12.hook_resid_post", "gemma-3-270m"
_PASSAGE, _HELD_TOKENS = 1000, 96
_LEAST_TEXTS = 5
"""Texts that a feature must fire on, and not fire on, for its AUROC."""
_FAMILIES = ("mapped_gauss", "mapped_cov", "target_iso")


def fitted_bridges(x: Any, y: Any, documents: Any, about: dict, folder: Path, name: str) -> Any:
    """Bridges to the target, back to the source, and to the source of wrong pairs; saved."""
    import numpy as np

    from atlas_jax.verbalize import solve_bridge
    from atlas_jax.verbalize.bridge_moments import PairSums

    back = about | {"source": about["target"], "target": about["source"]}
    wrong = np.random.default_rng(0).permutation(len(x))
    found = {}
    for key, a, b, meta in (
        ("to_target", x, y, about),
        ("to_source", y, x, back),
        ("shuffled_to_target", x, y[wrong], about | {"shuffled": True}),
        ("shuffled_to_source", y, x[wrong], back | {"shuffled": True}),
    ):
        sums = PairSums(5)
        for start in range(0, len(a), 4096):
            part = slice(start, start + 4096)
            sums.add(a[part], b[part], documents[part])
        found[key] = solve_bridge(sums.moments(meta))
        found[key].save(folder / f"{name}.{key}.safetensors")
    return found


def fires(atlas: Any, texts: Any) -> Any:
    """The largest activation of each feature in each text."""
    import numpy as np

    from atlas_jax.activations.pool import pool_max

    found = []
    for start in range(0, len(texts), 16):
        ids = [
            row[:_HELD_TOKENS]
            for row in atlas.tokenizer.encode_batch(list(texts[start : start + 16]))
        ]
        ids += [ids[0]] * (16 - len(ids))
        tokens, mask = atlas.tokenizer.pad(ids, _HELD_TOKENS)
        found.append(np.asarray(atlas.read(tokens, mask, pool=pool_max)[atlas.sites[0]]))
        print(f"  fired in the source: {start + 16}/{len(texts)} texts", end="\r", flush=True)
    print()
    return np.concatenate(found)[: len(texts)]


def scores(model: Any, sites: list[str], texts: Any, directions: list, scales: list) -> Any:
    """The largest <h, d> and <h / s^2, d> of each text's tokens: (site, reading, text, direction).

    s are the standard deviations of the target's dimensions: without them a few outlying ones
    decide every maximum.
    """
    import numpy as np

    found = np.zeros((len(sites), 2, len(texts), len(directions[0])), np.float32)
    for start in range(0, len(texts), 8):
        ids = [
            row[:_HELD_TOKENS]
            for row in model.tokenizer.encode_batch(list(texts[start : start + 8]))
        ]
        tokens, mask = model.tokenizer.pad([*ids, *[ids[0]] * (8 - len(ids))], _HELD_TOKENS)
        acts = model.read(tokens, mask, tuple(sites))
        for i, site in enumerate(sites):
            for j, (row, own) in enumerate(
                zip(np.asarray(acts[site], np.float32), ids, strict=False)
            ):
                h = row[1 : len(own)]  # not the first token, which is an attention sink
                found[i, 0, start + j] = (h @ directions[i].T).max(axis=0)
                found[i, 1, start + j] = ((h / scales[i] ** 2) @ directions[i].T).max(axis=0)
        print(f"  read in the target: {start + len(ids)}/{len(texts)} texts", end="\r", flush=True)
    print()
    return found


def cofiring(
    atlas: Any, target: Any, sites: list[str], bridges: list[Any], texts: Any, n: int
) -> Any:
    """AUROCs at each site, for features that fire on some texts and not on others."""
    import numpy as np

    from atlas_jax.evaluate import auroc, mean_interval
    from atlas_jax.verbalize.random_directions import random_directions

    fired = fires(atlas, texts) > 0
    count = fired.sum(axis=0)
    eligible = np.flatnonzero((count >= _LEAST_TEXTS) & (count <= len(texts) - _LEAST_TEXTS))
    rng = np.random.default_rng(1)
    chosen = np.sort(rng.choice(eligible, min(n, len(eligible)), replace=False))
    rows, labels, f = np.asarray(atlas.sae.W_dec)[chosen], fired[:, chosen], len(chosen)
    names = ("mapped", "wrong_pairs", *_FAMILIES)
    directions = [
        np.concatenate(
            [
                made["to_target"].directions(rows),
                made["shuffled_to_target"].directions(rows),
                *(random_directions(made["to_target"], family, f, 2) for family in _FAMILIES),
            ]
        ).astype(np.float32)
        for made in bridges
    ]
    scales = [made["to_target"].scale_y.astype(np.float32) for made in bridges]
    made = scores(target, sites, texts, directions, scales)
    found: dict[str, Any] = {"texts": len(texts), "eligible": len(eligible), "features": f}
    for i, site in enumerate(sites):
        t = bridges[i]["to_target"].reliability(rows)
        for k, reading in enumerate(("raw", "scaled")):
            values = {
                name: np.asarray(auroc(made[i, k, :, j * f : (j + 1) * f], labels))
                for j, name in enumerate(names)
            }
            less = {name: values["mapped"] - values[name] for name in names[1:]}
            found.setdefault(site, {})[reading] = {
                "auroc": {name: mean_interval(v)._asdict() for name, v in values.items()},
                "median": {name: float(np.median(v)) for name, v in values.items()},
                "mapped_less": {name: mean_interval(v)._asdict() for name, v in less.items()},
                "share_above_random": float((less["mapped_gauss"] > 0).mean()),
                "share_above_0.7": float((values["mapped"] > 0.7).mean()),
                "correlation_with_reliability": float(np.corrcoef(t, values["mapped"])[0, 1]),
            }
    return found


def quality(atlas: Any, bridge: Any, x: Any, y: Any) -> dict[str, Any]:
    """Trust in the atlas' mapped decoder rows, and the check by regression."""
    import jax.numpy as jnp
    import numpy as np

    from atlas_jax.atlas.sae import encode
    from atlas_jax.verbalize.regression import RegressionSums

    rows = np.asarray(atlas.sae.W_dec)
    sums, active = RegressionSums(), np.zeros(len(rows))
    for start in range(0, len(x), 2048):
        acts = np.asarray(encode(atlas.sae, jnp.asarray(x[start : start + 2048])))
        sums.add(acts, y[start : start + 2048])
        active += (acts > 0).sum(axis=0)
    cosine = sums.check(bridge, rows)
    kept = np.flatnonzero((active >= 20) & np.isfinite(cosine))
    labelled = [
        (-label.score, feature)
        for feature, labels in atlas.labels.features.items()
        for label in labels[:1]
        if label.score is not None
    ]
    measures = {m: getattr(bridge, m)(rows) for m in ("reliability", "shrinkage", "split_half")}
    best = [feature for _, feature in sorted(labelled)[:45]]

    def quantiles(values: Any) -> list[float]:
        return np.round(np.quantile(values, [0.1, 0.5, 0.9]), 4).tolist()

    order = np.argsort(-measures["reliability"])[:45]
    return {
        "all": {m: quantiles(v) for m, v in measures.items()},
        "best_45_by_label": {m: quantiles(v[best]) for m, v in measures.items()} if best else None,
        "regression_cosine": quantiles(cosine[kept]) if len(kept) else None,
        "regression_features": len(kept),
        "most_reliable_45": [
            {
                "feature": int(f),
                "description": atlas.describe(int(f)),
                **{m: round(float(v[f]), 4) for m, v in measures.items()},
            }
            for f in order
        ],
    }


def main() -> None:
    parser = options(__doc__ or "", "real_bridge")
    parser.add_argument("--pairs", type=int, default=24_000)
    parser.add_argument("--features", type=int, default=400)
    parser.add_argument("--held-texts", type=int, default=600)
    parser.add_argument("--target-blocks", default="5,9,13,16", help="of Gemma's 18")
    parser.add_argument("--folder", type=Path, default=Path("runs/real_bridge"))
    args = parser.parse_args()
    use_threads(args.threads)

    import atlas_jax as aj
    from atlas_jax.verbalize import Pairing
    from atlas_jax.verbalize.reading import ModelSide

    began = time.perf_counter()
    atlas, target = aj.load_atlas(), aj.load_model(TARGET)
    if atlas.site != SOURCE_SITE:
        raise SystemExit(f"the atlas reads {atlas.site}, not {SOURCE_SITE}")
    sites = [f"blocks.{block}.hook_resid_post" for block in args.target_blocks.split(",")]
    texts, held = passages(_PASSAGE)
    held = held[: args.held_texts]
    source_side = ModelSide(atlas.model, atlas.site)
    target_side = ModelSide(SideBySide(target, sites), "all")
    pairing = Pairing(min_left=50, per_text=16)
    x, y, documents, dropped = read_pairs(
        source_side, target_side, texts, pairing, args.pairs, args.folder / "pairs"
    )
    result: dict[str, Any] = {
        "machine": machine(),
        "pairs": len(x),
        "documents": len(set(documents.tolist())),
        "dropped": dropped,
        "seconds_of_reading": round(time.perf_counter() - began),
        "sites": {},
    }
    bridges, width = [], target.width(sites[0])
    for i, site in enumerate(sites):
        start, rows = time.perf_counter(), y[:, i * width : (i + 1) * width]
        about = {
            "source": source_side.about(),
            "target": ModelSide(target, site).about(),
            "runs": ["real_bridge"],
            "pairing": asdict(pairing),
            "rows": "raw",
            "shuffled": False,
        }
        made = fitted_bridges(x, rows, documents, about, args.folder, f"block{site.split('.')[1]}")
        bridges.append(made)
        result["sites"][site] = {
            **{
                key: {"tau": b.meta["tau"], "fve": b.meta["fve"], "common": b.common_component()}
                for key, b in made.items()
            },
            **quality(atlas, made["to_target"], x, rows),
            "seconds": round(time.perf_counter() - start, 1),
        }
        fve = {
            key: round(b.meta["fve"].get("per_dimension", float("nan")), 3)
            for key, b in made.items()
        }
        print(f"{site}: held-out share of variance explained {fve}", flush=True)
    explained = [
        b["to_target"].meta["fve"].get("per_dimension_kfold", float("-inf")) for b in bridges
    ]
    result["best_site"] = sites[max(range(len(sites)), key=explained.__getitem__)]
    save(args.out, result)
    result["cofiring"] = cofiring(atlas, target, sites, bridges, held, args.features)
    for site in sites:
        for reading, one in result["cofiring"][site].items():
            print(site, reading, json.dumps(one["auroc"]))
    result["seconds"] = round(time.perf_counter() - began)
    save(args.out, result)


if __name__ == "__main__":
    main()
