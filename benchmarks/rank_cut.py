"""Why Procrustes does not lead everywhere: held-out quality of a finished run by rank cut.

The polar factor gives every singular direction of M = A_s^' A_c^ the same weight. Those of small
singular values are estimated from few samples; the cut `rcond` (relative to the largest) leaves
them out. Centred and standardised rows show what attention sinks and outlier dimensions explain.

    atlas-jax quickstart && python benchmarks/rank_cut.py runs/quickstart
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from atlas_jax.activations import ActivationStore
from atlas_jax.evaluate import evaluate_translation
from atlas_jax.translate import Options, fit

CUTS = (3e-7, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/rank_cut.json"))
    arguments = parser.parse_args()
    stores = {
        (half, side): ActivationStore.open(arguments.run / "activations" / half / side)
        for half in ("train", "eval")
        for side in ("subject", "atlas")
    }
    rows = []
    for site in stores["train", "subject"].sites:
        rows += measure(site, stores)
    result = {"texts": len(stores["train", "subject"]), "rows": rows}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1))


def measure(site: str, stores: dict[tuple[str, str], ActivationStore]) -> list[dict]:
    subject = stores["train", "subject"][site][:].astype(np.float32)
    held = stores["eval", "subject"][site][:].astype(np.float32)
    atlas, labels = (stores[half, "atlas"] for half in ("train", "eval"))
    atlas, labels = atlas[atlas.sites[0]][:], labels[labels.sites[0]][:]
    mean, deviation = subject.mean(0), subject.std(0) + 1e-9
    rows = []

    def show(name: str, acts: np.ndarray, concepts: np.ndarray, cut: float, method: str) -> None:
        t = fit(acts, concepts, (method,), options=Options(rcond=cut))[method]
        report = evaluate_translation({method: t}, held, labels, random_directions=False)
        row = {
            "site": site,
            "variant": name,
            "rcond": cut if method == "procrustes" else None,
            "rank": t.meta["options"].get("rank"),
            "auroc": report.mean(method, "auroc").mean,
            "ap": report.mean(method, "ap").mean,
        }
        rows.append(row)
        print(
            f"{site:24s} {name:24s} rcond {cut:7.0e} rank {row['rank'] or '-':>5} "
            f"AUROC {row['auroc']:.3f} AP {row['ap']:.3f}",
            flush=True,
        )

    show("covariance", subject, atlas, CUTS[0], "covariance")
    for cut in CUTS:
        show("procrustes", subject, atlas, cut, "procrustes")
    centred = atlas - atlas.mean(0)
    show("both sides centred", subject - mean, centred, CUTS[0], "procrustes")
    show("subject standardised", (subject - mean) / deviation, centred, CUTS[0], "procrustes")
    return rows


if __name__ == "__main__":
    main()
