"""Section 4.3 of the paper on a real pair: every method, layer and choice, from a captured run.

The run needs its activations only (training and held-out); translations are fitted here. Written to
benchmarks/results/real_pair/: translation and retrieval (JSON, Markdown, LaTeX, SVG), and
choices.json and choices.md, the learning curve and what centring, normalisation and the rank cut
change.

    python benchmarks/real_pair.py runs/real_pair
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import measure
import numpy as np

from atlas_jax.evaluate import evaluate_retrieval, evaluate_translation, sets_from_samples
from atlas_jax.evaluate.tables import METHOD_NAMES, Table
from atlas_jax.pipeline.evaluation import save_evaluation
from atlas_jax.pipeline.run_folder import RunFolder
from atlas_jax.report.figures import curve
from atlas_jax.translate import MomentsFolder, Options, fit, fit_moments, polar
from atlas_jax.translate.linear import correlation, covariance
from atlas_jax.translate.procrustes import unit_cross

METHODS = (
    "linear_regression", "ridge", "covariance", "correlation", "semantic_lens", "procrustes"
)  # fmt: skip
CUT = 1e-3
CUT_NAME = "Procrustes, cut 1e-3"
CUTS = (3e-7, 1e-4, 1e-3, 1e-2)
OPTIONS = Options(alpha="gcv", k=20)


class Progress:
    """Prints what is done, and keeps the seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def done(self, what: str) -> None:
        now = time.perf_counter()
        self.seconds[what], self._last = round(now - self._last, 1), now
        print(f"{self.seconds[what]:8.1f} s  {what}", flush=True)


class Pair:
    """The four stores of a run."""

    def __init__(self, run: Path) -> None:
        opened = RunFolder(run)
        self.train, self.held, self.about = opened.train, opened.held_out, opened.about()
        train, held = opened.train_atlas, opened.held_out_atlas
        self.train_atlas, self.held_atlas = train[train.sites[0]], held[held.sites[0]]
        self.sites = sorted(self.train.sites, key=lambda site: int(site.split(".")[1]))
        self.middle = self.sites[len(self.sites) // 2]

    def quality(
        self, maps: Mapping[str, Any], site: str, how: argparse.Namespace, **more: Any
    ) -> Any:
        return evaluate_translation(
            maps, self.held[site], self.held_atlas, features=how.features, seed=how.seed, **more
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--out", type=Path, default=measure.RESULTS / "real_pair")
    parser.add_argument("--features", type=int, default=100, help="atlas features")
    parser.add_argument("--retrieved", type=int, default=454, help="subject features")
    parser.add_argument("--samples", type=int, default=20, help="texts of a concept set")
    parser.add_argument(
        "--steps", type=int, default=30, help="of exact Procrustes; 0: leave it out"
    )
    parser.add_argument("--seed", type=int, default=0)
    how = parser.parse_args()
    pair, progress = Pair(how.run), Progress()
    with TemporaryDirectory(prefix="real-pair-") as folder:
        maps = fit_all(pair, Path(folder), how.steps, progress)
        evaluate_all(pair, maps, how, progress)
        choices = list(effects(pair, MomentsFolder(folder), how))
        progress.done("centring, normalisation and rank cut")
    points = learning_curve(pair, maps[pair.middle], how, progress)
    result = {
        **pair.about,
        "machine": measure.machine(),
        "train": len(pair.train),
        "held_out": len(pair.held),
        "samples_for_each_feature": len(pair.train) / pair.train[pair.middle].shape[1],
        "seconds": progress.seconds,
        "curve": points,
        "choices": choices,
        "fits": {
            site: {name: _said(t) for name, t in by.items()} for site, by in maps.items()
        },
    }  # fmt: skip
    measure.save(how.out / "choices.json", result)
    tables = [*curve_tables(points, len(pair.train)), choice_table(choices)]
    (how.out / "choices.md").write_text("\n".join(t.markdown() for t in tables), "utf-8")
    for metric in ("auroc", "ap"):
        drawn = curve(points, list(points[-1]["methods"]), metric, metric.upper())
        if drawn is not None:
            drawn.save(how.out / f"curve_{metric}.svg")


def _said(translation: Any) -> dict[str, Any]:
    options = getattr(translation, "meta", {}).get("options", {})
    return {k: v for k, v in options.items() if isinstance(v, int | float | str)}


def fit_all(pair: Pair, folder: Path, steps: int, progress: Progress) -> dict[str, dict[str, Any]]:
    """Every method at every site; exact Procrustes, which takes minutes, at the middle one."""
    rows = {site: pair.train[site] for site in pair.sites}
    exact = ("procrustes_exact",) if steps else ()
    plain = fit(rows, pair.train_atlas, METHODS, options=OPTIONS, moments=folder)
    progress.done("one pass and six methods at all sites")
    cut = fit_moments(folder, options=replace(OPTIONS, rcond=CUT))
    for site in pair.sites:
        plain[site][CUT_NAME] = cut[site]["procrustes"]
    progress.done(CUT_NAME)
    if exact:
        options = replace(OPTIONS, steps=steps)
        found = fit(pair.train[pair.middle], pair.train_atlas, exact, options=options)
        plain[pair.middle] |= found
        progress.done(f"exact Procrustes at {pair.middle}, {steps} steps at most")
    return plain


def evaluate_all(
    pair: Pair, maps: Mapping[str, Any], how: argparse.Namespace, progress: Progress
) -> None:
    """Tables 3 and 4 of the paper, on this pair."""
    for kind in ("translation", "retrieval"):
        sites = {}
        for site in pair.sites:
            by = {name: t for name, t in maps[site].items() if name != "procrustes_exact"}
            if kind == "translation":
                report: Any = pair.quality(by, site, how)
            else:
                held = pair.held[site]
                sets = sets_from_samples(
                    held, pair.held_atlas, how.retrieved, how.samples, how.seed
                )
                report = evaluate_retrieval(by, sets, seed=how.seed)
            sites[site] = report.to_dict()
        save_evaluation(kind, {**pair.about, "sites": sites}, how.out)
        progress.done(kind)
    if "procrustes_exact" in maps[pair.middle]:  # beside all others, where it was fitted
        site = pair.middle
        report = pair.quality(maps[site], site, how).to_dict()
        save_evaluation(
            "translation", {**pair.about, "sites": {site: report}}, how.out / "with_exact"
        )
        sets = sets_from_samples(
            pair.held[site], pair.held_atlas, how.retrieved, how.samples, how.seed
        )
        report = evaluate_retrieval(maps[site], sets, seed=how.seed).to_dict()
        save_evaluation(
            "retrieval", {**pair.about, "sites": {site: report}}, how.out / "with_exact"
        )
        progress.done("both, with exact Procrustes")


def effects(pair: Pair, folder: MomentsFolder, how: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Procrustes under other choices, all from the same saved sums: the polar factor of

    rows of unit length (the paper), the same centred, raw products, centred products, and
    standardised ones, each with several rank cuts; and scores as cosines.
    """
    moments = folder.whole()
    for site in pair.sites:
        sums, atlas, n = moments.sites[site], moments.atlas, moments.n
        assert sums.cross is not None
        products = {
            "rows of unit length": unit_cross(n, sums, atlas),
            "rows of unit length, centred": unit_cross(n, sums, atlas, center=True),
            "raw rows": sums.cross.T,
            "raw rows, centred": covariance(n, sums, atlas).astype(np.float64),
            "features standardised": correlation(n, sums, atlas).astype(np.float64),
        }
        fitted: dict[str, Any] = {}
        for name, product in products.items():
            for cut in CUTS if name == "rows of unit length" else (CUTS[0], CUT):
                found = polar(np.ascontiguousarray(product), rcond=cut)
                matrix = np.asarray(found.factor, np.float32)
                fitted[f"{name}|{cut:g}|{found.rank}"] = SimpleNamespace(matrix=matrix)
        for cosine in (False, True):
            maps = fitted if not cosine else dict(list(fitted.items())[:1])
            report = pair.quality(maps, site, how, cosine=cosine, random_directions=False)
            first = next(iter(report.values))
            for row in report.rows():
                name, cut, rank = row["method"].split("|")
                tests = {
                    m: report.values[row["method"]][m] - report.values[first][m]
                    for m in ("auroc", "ap")
                }
                yield {
                    "site": site,
                    "rows": name + (", cosine scores" if cosine else ""),
                    "rcond": float(cut),
                    "rank": int(rank),
                    **{k: row[k] for m in tests for k in (m, f"{m}_low", f"{m}_high")},
                    **{f"{m}_minus_paper": float(np.nanmean(gap)) for m, gap in tests.items()},
                }


def learning_curve(
    pair: Pair, whole: Mapping[str, Any], how: argparse.Namespace, progress: Progress
) -> list[dict[str, Any]]:
    """Quality and retrieval at the middle site after fitting on the first n texts."""
    site, n = pair.middle, len(pair.train)
    subject, atlas = pair.train[site][:], pair.train_atlas[:]
    sets = sets_from_samples(pair.held[site], pair.held_atlas, how.retrieved, how.samples, how.seed)
    points = []
    for size in [n // 2**i for i in range(4, -1, -1)]:
        if size < n:
            maps: dict[str, Any] = fit(subject[:size], atlas[:size], METHODS, options=OPTIONS)
            other = replace(OPTIONS, rcond=CUT)
            maps[CUT_NAME] = fit(subject[:size], atlas[:size], options=other)["procrustes"]
        else:
            maps = {name: t for name, t in whole.items() if name != "procrustes_exact"}
        quality = pair.quality(maps, site, how, random_directions=False)
        found = evaluate_retrieval(maps, sets, seed=how.seed)
        points.append(
            {
                "n": size,
                "site": site,
                "methods": {
                    name: {m: list(quality.mean(name, m)) for m in ("auroc", "ap")}
                    | {m: list(found.mean(name, m)) for m in ("mrr", "mpp")}
                    for name in maps
                },
            }
        )
        progress.done(f"learning curve, {size:,} texts")
    return points


def curve_tables(points: Sequence[Mapping[str, Any]], n: int) -> Iterator[Table]:
    for metric in ("auroc", "ap", "mrr", "mpp"):
        rows = tuple(
            (
                METHOD_NAMES.get(name, name),
                *(f"{point['methods'][name][metric][0]:.3f}" for point in points),
            )
            for name in points[-1]["methods"]
        )
        yield Table(
            f"{metric.upper()} at {points[0]['site']} after fitting on the first texts of {n:,}",
            ("Method", *(f"{point['n']:,}" for point in points)),
            rows,
        )


def choice_table(choices: Sequence[Mapping[str, Any]]) -> Table:
    rows = tuple(
        (
            f"{c['site']}: {c['rows']}",
            f"{c['rcond']:g}",
            str(c["rank"]),
            *(f"{c[m]:.3f} [{c[f'{m}_low']:.3f}, {c[f'{m}_high']:.3f}]" for m in ("auroc", "ap")),
            *(f"{c[f'{m}_minus_paper']:+.3f}" for m in ("auroc", "ap")),
        )
        for c in choices
    )
    head = ("Polar factor of", "rank cut", "rank", "AUROC", "AP", "AUROC − first", "AP − first")
    return Table(
        "Procrustes under other choices; the first row of each site is the paper's", head, rows
    )


if __name__ == "__main__":
    main()
