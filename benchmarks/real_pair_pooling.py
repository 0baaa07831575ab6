"""What pooling and the first token change, on a real pair: some sentences of a run, read again.

Each pooling is fitted and scored with itself on the subject's side and the atlas's; a held-out text
counts as relevant where the atlas feature is active anywhere on it, whatever the pooling. `max,
first token too` lets the subject's maximum see position 0, an attention sink that the others leave
out.

    python benchmarks/real_pair_pooling.py runs/quickstart --texts 3600
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import measure
import numpy as np

from atlas_jax.activations.batches import plan_batches
from atlas_jax.activations.pool import POOLS
from atlas_jax.atlas import load_atlas
from atlas_jax.corpus import Corpus
from atlas_jax.evaluate import evaluate_translation
from atlas_jax.evaluate.tables import METHOD_NAMES, Table
from atlas_jax.models import load_model
from atlas_jax.progress import Bar
from atlas_jax.translate import Options, fit

NAMES = (*POOLS, "max, first token too")
METHODS = ("covariance", "procrustes", "semantic_lens")


def pool_all(acts: Any, mask: Any) -> Any:
    """All poolings, stacked."""
    everywhere = jnp.where(mask[:, :, None], acts, -jnp.inf).max(axis=1)
    return jnp.stack([*(pool(acts, mask) for pool in POOLS.values()), everywhere])


def read(model: Any, site: str, texts: list[str], batch_tokens: int, most: int) -> np.ndarray:
    """(poolings, texts, width)."""
    rows = [ids[:most] for ids in model.tokenizer.encode_batch(texts)]
    out = np.empty((len(NAMES), len(rows), model.width(site)), np.float32)
    with Bar(f"reading {model.name}", len(rows)) as bar:
        for batch in plan_batches([len(ids) for ids in rows], batch_tokens):
            ids = [rows[i] for i in batch.rows]
            filled = ids + [ids[0]] * (batch.size - len(ids))
            tokens, mask = model.tokenizer.pad(filled, batch.length)
            acts = np.asarray(model.read(tokens, mask, (site,), pool_all)[site], np.float32)
            out[:, batch.rows] = acts[:, : len(ids)]
            bar.advance(len(ids))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--out", type=Path, default=measure.RESULTS / "real_pair")
    parser.add_argument("--texts", type=int, default=3600, help="three quarters are for training")
    parser.add_argument("--site", help="default: the middle one of the run")
    parser.add_argument("--features", type=int, default=100)
    parser.add_argument("--rcond", type=float, default=1e-3, help="rank cut of Procrustes")
    how = parser.parse_args()
    recipe = json.loads((how.run / "manifest.json").read_text("utf-8"))["recipe"]
    corpus = Corpus.load(how.run / "corpus")
    model = load_model(recipe["subject"]["model"], recipe["subject"]["dtype"])
    atlas = load_atlas(recipe["atlas"]["reference"], dtype=recipe["atlas"]["dtype"])
    sites = recipe["subject"]["sites"] or model.sites
    site = how.site or sites[len(sites) // 2]
    n = int(how.texts * 0.75)
    texts = [*corpus.train[:n], *corpus.eval[: how.texts - n]]
    n = min(n, len(corpus.train))
    size, most = recipe["capture"]["batch_tokens"], recipe["capture"]["max_tokens"]
    subject = read(model, site, texts, size, most)
    concepts = read(atlas, atlas.sites[0], texts, size, most)
    labels = concepts[NAMES.index("max"), n:]
    rows = []
    for i, name in enumerate(NAMES):
        side = concepts[min(i, len(POOLS) - 1)] if name in POOLS else concepts[0]
        maps = fit(subject[i, :n], side[:n], METHODS, options=Options(rcond=how.rcond))
        report = evaluate_translation(
            maps, subject[i, n:], labels, features=how.features, random_directions=False
        )
        rows.append({"pooling": name, "methods": report.to_dict()["methods"]})
        print(name, {r["method"]: round(r["auroc"], 3) for r in rows[-1]["methods"]}, flush=True)
    table = Table(
        f"Poolings at {site}: {n:,} training and {len(texts) - n:,} held-out texts, "
        f"{how.features} atlas features, rank cut {how.rcond:g}",
        ("Pooling", *(f"{METHOD_NAMES[m]} {x}" for m in METHODS for x in ("AUROC", "AP"))),
        tuple(
            (
                row["pooling"],
                *(
                    f"{m[x]:.3f} [{m[f'{x}_low']:.3f}, {m[f'{x}_high']:.3f}]"
                    for m in row["methods"]
                    for x in ("auroc", "ap")
                ),
            )
            for row in rows
        ),
    )
    result = {"machine": measure.machine(), "site": site, "train": n, "rows": rows}
    measure.save(how.out / "pooling.json", result)
    (how.out / "pooling.md").write_text(table.markdown(), "utf-8")


if __name__ == "__main__":
    main()
