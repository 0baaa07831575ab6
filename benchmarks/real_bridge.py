"""A bridge between two real models: how much it explains, and what its directions detect.

    python benchmarks/real_bridge.py                 SmolLM2-135M block 12 <-> Gemma-3-270M block 9
    python benchmarks/real_bridge.py --pairs 800 --features 20     a quick look

Pairs of tokens of whole passages, both ways. For the atlas' decoder rows d_f over the bridge:
reliability, split half, and co-firing: the AUROC with which the largest <h_target, M d_f> over a
held-out text's tokens tells the texts on which feature f fires in the source, against random
directions sent over the same bridge. Intervals are over features.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from measure import machine, options, save, use_threads

SOURCE, TARGET = "smollm2-135m-instruct", "gemma-3-270m"
_PASSAGE = 1400
"""Characters: about 300 tokens."""


def passages(count: int) -> Any:
    """Passages of whole documents, in a fixed random order."""
    import numpy as np

    from atlas_jax.corpus import Texts, documents

    texts, sources, names = [], [], []
    for document in documents("packages"):
        text = document.text
        # Cut at the white space nearest to the length wanted.
        start = 0
        while len(text) - start > 600:
            end = text.rfind(" ", start, start + _PASSAGE)
            end = end if end > start + 400 else min(start + _PASSAGE, len(text))
            texts.append(text[start:end].strip())
            sources.append(document.source)
            names.append(document.document)
            start = end
    order = np.random.default_rng(0).permutation(len(texts))[:count]
    return Texts(*([column[i] for i in order] for column in (texts, sources, names)))


def cofiring(atlas: Any, target: Any, site: str, bridge: Any, texts: Any, features: int) -> Any:
    """AUROC of mapped decoder rows and of random directions, for features that fire on 2 % to 50 %
    of the texts."""
    import numpy as np

    from atlas_jax.evaluate import auroc, mean_interval
    from atlas_jax.verbalize.random_directions import random_directions
    from atlas_jax.verbalize.standardise import floored

    fires, states = [], []
    for start in range(0, len(texts), 16):
        some = [str(t) for t in texts[start : start + 16]]
        fires.append(_read(atlas, atlas.sites[0], some, _largest))
        states += [rows for text in some for rows in _read(target, site, [text], None)]
    fired = np.concatenate(fires) > 0
    share = fired.mean(axis=0)
    eligible = np.flatnonzero((share > 0.02) & (share < 0.5))
    rng = np.random.default_rng(1)
    chosen = np.sort(rng.choice(eligible, min(features, len(eligible)), replace=False))
    rows = np.asarray(atlas.sae.W_dec)[chosen]
    # Outlying dimensions would decide every maximum: states are centred and scaled.
    everything = np.concatenate(states)
    mean, scale = everything.mean(0), floored(everything.var(0).astype(np.float64))

    def scores(directions: np.ndarray) -> np.ndarray:
        return np.stack([(((h - mean) / scale**2) @ directions.T).max(axis=0) for h in states])

    labels = fired[:, chosen]
    sides = {
        "mapped": bridge.directions(rows),
        **{
            family: random_directions(bridge, family, len(chosen))
            for family in ("mapped_gauss", "mapped_cov", "target_iso")
        },
    }
    found = {
        name: np.asarray(auroc(scores(d).astype(np.float32), labels)) for name, d in sides.items()
    }
    difference = found["mapped"] - found["mapped_gauss"]
    t = bridge.reliability(rows)
    return {
        "texts": len(states),
        "features": len(chosen),
        "auroc": {name: mean_interval(values)._asdict() for name, values in found.items()},
        "mapped_less_random": mean_interval(difference)._asdict(),
        "share_above_random": float((difference > 0).mean()),
        "correlation_with_reliability": float(np.corrcoef(t, found["mapped"])[0, 1]),
    }


def _largest(acts: Any, mask: Any) -> Any:
    from atlas_jax.activations.pool import pool_max

    return pool_max(acts, mask)


def _read(model: Any, site: str, texts: list[str], pool: Any) -> Any:
    """Pooled activations of texts; without a pool, those of each text's tokens but the first."""
    import numpy as np

    ids = [row[:320] for row in model.tokenizer.encode_batch(texts)]
    tokens, mask = model.tokenizer.pad(ids, 320)
    acts = np.asarray(model.read(tokens, mask, (site,), pool)[site], np.float32)
    return acts if pool else [rows[1 : len(row)] for rows, row in zip(acts, ids, strict=True)]


def main() -> None:
    parser = options(__doc__ or "", "real_bridge")
    parser.add_argument("--pairs", type=int, default=24_000)
    parser.add_argument("--features", type=int, default=240)
    parser.add_argument("--held-texts", type=int, default=400)
    parser.add_argument("--target-block", type=int, default=9)
    parser.add_argument("--folder", type=Path, default=Path("runs/real_bridge"))
    args = parser.parse_args()
    use_threads(args.threads)

    import numpy as np

    import atlas_jax as aj
    from atlas_jax.verbalize import Pairing, fit_bridge

    atlas, target = aj.load_atlas(), aj.load_model(TARGET)
    source, there = atlas.model, f"blocks.{args.target_block}.hook_resid_post"
    pairing = Pairing(min_left=50, per_text=16)
    texts = passages(args.pairs // 14 + args.held_texts + 100)
    held, fitted = texts[: args.held_texts], texts[args.held_texts :]
    labelled = sorted(
        (-label.score, feature)
        for feature, labels in atlas.labels.features.items()
        for label in labels[:1]
        if label.score is not None
    )
    best = [feature for _, feature in labelled[:45]]
    result: dict[str, Any] = {"machine": machine(), "texts": len(fitted)}
    for name, (a, b, site_a, site_b) in {
        "to_target": (source, target, atlas.site, there),
        "to_source": (target, source, there, atlas.site),
    }.items():
        start = time.perf_counter()
        bridge = fit_bridge(
            a, b, fitted, site_a, site_b, pairing=pairing,
            moments=args.folder / f"{name}.moments.safetensors",
        )  # fmt: skip
        bridge.save(args.folder / f"{name}.safetensors")
        mine: dict[str, Any] = {
            "pairs": bridge.meta["n"],
            "tau": bridge.meta["tau"],
            "fve": bridge.meta["fve"],
            "dropped": bridge.meta.get("dropped"),
            "common_component": bridge.common_component(),
            "seconds": round(time.perf_counter() - start, 1),
        }
        if name == "to_target":
            rows = np.asarray(atlas.sae.W_dec)
            groups = {"best_45_by_label": rows[best], "all": rows}
            for group, d in groups.items():
                if len(d):
                    mine[group] = {
                        measure: np.quantile(getattr(bridge, measure)(d), [0.1, 0.5, 0.9]).tolist()
                        for measure in ("reliability", "shrinkage", "split_half", "top_share")
                    }
            order = np.argsort(-bridge.reliability(rows))[:45]
            mine["most_reliable_45"] = [
                {
                    "feature": int(f),
                    "description": atlas.describe(int(f)),
                    "reliability": float(bridge.reliability(rows[f][None])[0]),
                    "split_half": float(bridge.split_half(rows[f][None])[0]),
                }
                for f in order
            ]
            mine["cofiring"] = cofiring(atlas, target, there, bridge, held, args.features)
        result[name] = mine
        print(
            json.dumps({name: {k: v for k, v in mine.items() if k != "most_reliable_45"}}, indent=1)
        )
    save(args.out, result)


if __name__ == "__main__":
    main()
