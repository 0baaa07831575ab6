"""The minimiser of eq. 2 beside the paper's closed form: objective and held-out quality of a run.

The closed form maximises <T, A_s^' A_c^>; with d_s < d_c it does not minimise ||A_s^ - A_c^ T'||.
`procrustes_exact` does, and loses held-out quality by it.

    atlas-jax quickstart && python benchmarks/procrustes_exact.py runs/quickstart
    python benchmarks/procrustes_exact.py --write       puts the table into docs/methods.md
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from measure import RESULTS, machine, save

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
FILE = RESULTS / "procrustes_exact.json"
METHODS = ("procrustes", "procrustes_exact")


def measure(run: Path, rcond: float) -> list[dict[str, Any]]:
    """Both methods at each site of a finished run."""
    from atlas_jax.activations import ActivationStore
    from atlas_jax.evaluate import evaluate_translation
    from atlas_jax.translate import Options, fit

    opened = {
        (half, side): ActivationStore.open(run / "activations" / half / side)
        for half in ("train", "eval")
        for side in ("subject", "atlas")
    }
    atlas, labels = (opened[half, "atlas"] for half in ("train", "eval"))
    atlas, labels = atlas[atlas.sites[0]], labels[labels.sites[0]]
    rows = []
    for site in opened["train", "subject"].sites:
        subject, held = (opened[half, "subject"][site] for half in ("train", "eval"))
        start = time.perf_counter()
        maps = fit(subject, atlas, METHODS, options=Options(rcond=rcond))
        seconds = time.perf_counter() - start
        report = evaluate_translation(maps, held, labels)
        exact = maps["procrustes_exact"].meta["options"]
        gap = {m: report.difference(*reversed(METHODS), m)._asdict() for m in ("auroc", "ap")}
        rows.append(
            {
                "site": site,
                "rcond": rcond,
                "texts": len(subject),
                "seconds": round(seconds, 1),
                "options": exact,
                "quality": {
                    name: {m: report.mean(name, m)._asdict() for m in ("auroc", "ap")}
                    for name in METHODS
                },
                "exact_minus_closed": gap,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| site | rank | objective, closed / exact | AUROC, closed / exact | difference "
        "| AP, closed / exact | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        closed, exact = (row["quality"][name] for name in METHODS)
        first, last = (row["options"][key] for key in ("objective_closed_form", "objective"))
        cells = [f"`{row['site']}`", str(row["options"]["rank"]), f"{first:.3f} / {last:.3f}"]
        for metric in ("auroc", "ap"):
            gap = row["exact_minus_closed"][metric]
            cells.append(f"{closed[metric]['mean']:.3f} / {exact[metric]['mean']:.3f}")
            cells.append(f"{gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(text: str) -> str:
    """The page with the table between its markers."""
    begin, end = "<!-- exact -->", "<!-- end -->"
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    rows = json.loads(FILE.read_text())["rows"]
    return f"{head}{begin}\n\n{table(rows)}\n\n{end}{tail}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", help="a run folder")
    parser.add_argument("--rcond", type=float, default=1e-3, help="rank cut of both")
    parser.add_argument("--write", action="store_true", help="into docs/methods.md")
    arguments = parser.parse_args()
    if arguments.run:
        found = measure(arguments.run, arguments.rcond)
        save(FILE, {"benchmark": "procrustes_exact", "machine": machine(), "rows": found})
    if arguments.write:
        PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
