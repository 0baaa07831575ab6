"""Directions of Gemma-3-270M explained by a verbalizer of SmolLM2-135M, over a bridge.

    python benchmarks/real_bridge.py                 first: pairs and bridges
    python benchmarks/train_verbalizer.py            and the verbalizer
    python benchmarks/real_lift.py                   then this
    python benchmarks/real_lift.py --texts 200 --topics 12 --random 8     a quick look

A direction is a topic of Gemma's own: held-out passages are grouped by k-means on Gemma's mean
states, and d = mean of a group - mean of all. What should be said of it are the words that set its
passages apart. The verbalizer learned such words from single states of SmolLM2, and never saw one
of Gemma. Beside the lift over the bridge: that of SmolLM2's own directions of the same groups,
which need no bridge and show what the verbalizer itself can do, and the nulls.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from measure import machine, options, save, use_threads
from passages import passages

TARGET = "gemma-3-270m"
_PASSAGE, _TOKENS, _SKIPPED = 1000, 160, 16
_LEAST = 4
"""Passages of a topic."""
_OF_A_DOCUMENT = 25


def mean_states(model: Any, site: str, texts: Any, path: Path) -> Any:
    """The mean state of each text after its first tokens; kept in a file."""
    import numpy as np

    if path.exists():
        return np.load(path)
    found = []
    for start in range(0, len(texts), 8):
        ids = [
            row[:_TOKENS] for row in model.tokenizer.encode_batch(list(texts[start : start + 8]))
        ]
        tokens, mask = model.tokenizer.pad([*ids, *[ids[0]] * (8 - len(ids))], _TOKENS)
        acts = np.asarray(model.read(tokens, mask, (site,))[site], np.float32)
        for row, own in zip(acts, ids, strict=False):
            rows = row[min(_SKIPPED, len(own) - 1) : len(own)]
            norms = np.linalg.norm(rows, axis=1)
            found.append(rows[norms <= 10 * np.median(norms)].mean(axis=0))
        print(f"  {model.name}: {start + len(ids)}/{len(texts)} texts", end="\r", flush=True)
    print()
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.stack(found))
    return np.stack(found)


def spread(texts: Any, count: int) -> Any:
    """The first texts, at most so many of a document that no document is a topic of its own."""
    from collections import Counter

    from atlas_jax.corpus import Texts

    used: Counter[str] = Counter()
    kept = []
    for i, document in enumerate(texts.documents):
        used[document] += 1
        if used[document] <= _OF_A_DOCUMENT and len(kept) < count:
            kept.append(i)
    columns = (texts.texts, texts.sources, texts.documents)
    return Texts(*([column[i] for i in kept] for column in columns))


def topics(states: Any, count: int) -> list[Any]:
    """Groups of texts by their mean states, each dimension in its standard deviations."""
    import numpy as np
    from sklearn.cluster import KMeans

    rows = (states - states.mean(0)) / states.std(0)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    labels = KMeans(count, n_init=4, random_state=0).fit_predict(rows)
    groups = [np.flatnonzero(labels == i) for i in range(count)]
    return [group for group in groups if len(group) >= _LEAST]


def main() -> None:
    parser = options(__doc__ or "", "real_lift")
    parser.add_argument("--texts", type=int, default=1200)
    parser.add_argument("--topics", type=int, default=80)
    parser.add_argument("--random", type=int, default=100)
    parser.add_argument("--samples", type=int, default=1, help="1 is greedy")
    parser.add_argument("--target-block", type=int, default=9)
    parser.add_argument("--bridges", type=Path, default=Path("runs/real_bridge"))
    parser.add_argument("--verbalizer", type=Path, default=Path("runs/verbalizer"))
    parser.add_argument("--folder", type=Path, default=Path("runs/real_lift"))
    args = parser.parse_args()
    use_threads(args.threads)

    import numpy as np

    import atlas_jax as aj
    from atlas_jax.atlas.embed import SentenceEmbedder
    from atlas_jax.verbalize import Bridge, load_verbalizer
    from atlas_jax.verbalize.lift import bootstrap_lift, retrieval, similarity
    from atlas_jax.verbalize.lift_page import save_lift
    from atlas_jax.verbalize.lift_run import LiftPlan, measure_lift
    from atlas_jax.verbalize.said import embed_said
    from atlas_jax.verbalize.training import WordTable
    from atlas_jax.verbalize.washout import Washout
    from atlas_jax.verbalize.washout_comparison import usual_washouts

    began, block = time.perf_counter(), f"block{args.target_block}"
    bridge = Bridge.load(args.bridges / f"{block}.to_source.safetensors")
    wrong = Bridge.load(args.bridges / f"{block}.shuffled_to_source.safetensors")
    speaks = load_verbalizer(args.verbalizer, bridge=bridge)
    fitted, held = passages(_PASSAGE)
    held = spread(held, args.texts)
    table = WordTable.of(fitted[:6000])
    site = f"blocks.{args.target_block}.hook_resid_post"
    gemma, smol = aj.load_model(TARGET), aj.load_model(str(bridge.meta["target"]["model"]))
    states = [
        mean_states(model, place, held, args.folder / f"{name}.{len(held)}.npy")
        for model, place, name in ((gemma, site, block), (smol, speaks.description.site, "own"))
    ]
    groups = topics(states[0], args.topics)
    directions, own = (
        np.stack([rows[group].mean(0) for group in groups]) - rows.mean(0) for rows in states
    )
    words = [", ".join(table.characteristic([held[i] for i in group])) for group in groups]
    kept = [i for i, text in enumerate(words) if text]
    groups, words = [groups[i] for i in kept], [words[i] for i in kept]
    directions, own = directions[kept], own[kept]
    print(f"{len(kept)} topics of {len(held)} passages", flush=True)
    embedder = SentenceEmbedder()
    e_words = embedder.embed(words)[None]
    said = speaks.explain_all(
        own, Washout(), samples=args.samples, temperature=0.0 if args.samples == 1 else 0.7
    )
    s = similarity(embed_said(embedder, said), e_words)
    without_bridge = {
        "lift_spec": bootstrap_lift(s)._asdict(),
        "top1": float(retrieval(s)[0].mean()),
        "own_cosine": float(np.diag(s).mean()),
    }
    print("without a bridge:", json.dumps(without_bridge), flush=True)
    assert speaks.background is not None
    plan = LiftPlan(
        random=args.random, samples=args.samples, clusters=max(2, len(kept) // 8),
        sweep=usual_washouts(speaks.background),
    )  # fmt: skip
    names = [f"topic {i} ({len(group)} passages)" for i, group in enumerate(groups)]
    found = measure_lift(directions, words, speaks, bridge, embedder, plan, names, wrong)
    args.folder.mkdir(parents=True, exist_ok=True)
    save_lift(found, args.folder / "lift.html")
    result = {
        "machine": machine(),
        "texts": len(held),
        "topics": len(kept),
        "bridge": {key: bridge.meta[key] for key in ("n", "tau", "fve")},
        "verbalizer": repr(speaks),
        "without_bridge": without_bridge,
        "over_the_bridge": found["figures"],
        "background": found["background"],
        "washouts": found["washouts"],
        "examples": [
            {"words": w, "own": row[0].text, "foreign": feature["foreign"][0]}
            for w, row, feature in zip(words, said, found["features"], strict=True)
        ],
        "seconds": round(time.perf_counter() - began),
    }
    print(json.dumps({k: found["figures"][k] for k in ("lift_spec", "lift_rand", "nulls", "top1")}))
    save(args.out, result)


if __name__ == "__main__":
    main()
