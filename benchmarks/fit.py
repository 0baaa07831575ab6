"""Fitting translations: time, error and memory, beside NumPy, SciPy and scikit-learn.

    python benchmarks/fit.py             every row, medians of 5
    python benchmarks/fit.py --small     an eighth of the samples, half the widths, one repeat
    python benchmarks/fit.py --only procrustes --threads 1

Both sides of a row start from the same matrices in memory, take turns, and end with the same
result, whose error against float64 is recorded. Peak memory is that of a process of its own: NumPy
loads the matrices, this project streams them from the same files. The sparse atlas has column
frequencies as real ones have, log-normal with a mean of 5 %.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from measure import in_turn, machine, options, save, use_threads

Sides = Mapping[str, Callable[[], Any]]
OURS = "atlas_jax"


class Bench:
    """The rows of the table, at some scale.

    Args:
        small: shrink everything.
        repeats: of each side.
    """

    def __init__(self, small: bool, repeats: int) -> None:
        import numpy as np

        self.np, self.repeats = np, 1 if small else repeats
        self.share, self.shrink = (8, 2) if small else (1, 1)
        self.rng = np.random.default_rng(0)

    def pair(self, n: int, ds: int, dc: int, density: float) -> tuple[Any, Any]:
        """A subject that shares the atlas's concepts, has its own too, and a mean that is not 0."""
        np, rng = self.np, self.rng
        atlas = self.atlas(n, dc, density)
        subject = atlas @ rng.standard_normal((dc, ds), np.float32)
        subject *= np.float32(1 / subject.std())
        subject += rng.standard_normal((n, ds), np.float32)
        subject += rng.uniform(-3, 3, ds).astype(np.float32)
        return subject, atlas

    def atlas(self, n: int, d: int, density: float) -> Any:
        """Activations of an autoencoder: positive, rare, some columns much rarer than others."""
        np, rng = self.np, self.rng
        if density == 1.0:
            mixed = rng.standard_normal((n, 64), np.float32) @ rng.standard_normal(
                (64, d), np.float32
            )
            return mixed * np.float32(0.1) + rng.standard_normal((n, d), np.float32) + np.float32(1)
        shares = rng.lognormal(0.0, 1.0, d)
        for _ in range(20):
            shares = np.minimum(shares * density / shares.mean(), 0.95)
        result = rng.random((n, d), np.float32)
        result /= shares.astype(np.float32)  # below 1: active, and uniform there
        np.multiply(result, result < 1, out=result)
        return result

    def row(self, name: str, goals: Mapping[str, float], sides: Sides, **more: Any) -> dict:
        """Runs the sides in turn; the ratios are medians of theirs over ours."""
        print(name, flush=True)
        cpu: dict[str, list[float]] = {side: [] for side in sides}

        def timed(side: str, run: Callable[[], Any]) -> Callable[[], Any]:
            def call() -> Any:
                start = time.process_time()
                result = run()
                cpu[side].append(time.process_time() - start)
                return result

            return call

        seconds = in_turn({k: timed(k, run) for k, run in sides.items()}, self.repeats)
        median = {side: statistics.median(times) for side, times in seconds.items()}
        worked = {side: statistics.median(times) for side, times in cpu.items()}
        ratios = {k: round(median[k] / median[OURS], 3) for k in sides if k != OURS}
        result = {
            "name": name,
            "seconds": {k: [round(t, 4) for t in v] for k, v in seconds.items()},
            "median_s": {k: round(v, 4) for k, v in median.items()},
            "cpu_s": {k: round(v, 4) for k, v in worked.items()},
            "ratios": ratios,
            "cpu_ratios": {k: round(worked[k] / worked[OURS], 3) for k in ratios},
            "goals": {k: {"wanted": goal, "met": ratios[k] >= goal} for k, goal in goals.items()},
            **more,
        }
        print("  ", {k: result[k] for k in ("ratios", "cpu_ratios", *more)}, flush=True)
        return result

    # One method for each row of the table.

    def moments(self) -> list[dict]:
        """Covariance and correlation."""
        from atlas_jax.translate import fit

        n, ds, dc = 50_000 // self.share, 2048 // self.shrink, 4096 // self.shrink
        rows = []
        for density in (0.05, 1.0):
            subject, atlas = self.pair(n, ds, dc, density)
            wide = subject.astype("f8"), atlas.astype("f8")
            reference = numpy_moments(*wide)
            mine = fit(subject, atlas, ("covariance", "correlation"))
            errors = {
                OURS: error(mine["correlation"].matrix, reference[1]),
                "numpy_f32": error(numpy_moments(subject, atlas)[1], reference[1]),
            }
            sides: dict[str, Callable[[], Any]] = {
                OURS: lambda s=subject, c=atlas: fit(s, c, ("covariance", "correlation")),
                "numpy_f32": lambda s=subject, c=atlas: numpy_moments(s, c),
            }
            goals = {"numpy_f32": 1.0}
            if density < 1:
                sides["numpy_f64"] = lambda pair=wide: numpy_moments(*pair)
                goals = {"numpy_f32": 3.0, "numpy_f64": 8.0}
            name = f"covariance and correlation, atlas {density:.0%} dense"
            more = {
                "shape": [n, ds, dc],
                "errors": errors,
                "sums": mine["correlation"].meta["sums"],
            }
            if density < 1:
                more["memory"] = self.memory(subject, atlas)
            rows.append(self.row(name, goals, sides, **more))
            del wide, sides, reference
        return rows

    def memory(self, subject: Any, atlas: Any) -> dict[str, Any]:
        """Peak memory beyond the imports, streamed and in memory, in MB."""
        with tempfile.TemporaryDirectory() as folder:
            self.np.save(f"{folder}/subject.npy", subject)
            self.np.save(f"{folder}/atlas.npy", atlas)
            peak = {side: child(side, folder) for side in ("streamed", "numpy")}
        ratio = peak["streamed"] / peak["numpy"]
        return {"peak_mb": peak, "ratio": round(ratio, 3), "wanted": 0.3, "met": ratio <= 0.3}

    def procrustes(self) -> list[dict]:
        """Rows of unit length, their product, its polar factor."""
        from atlas_jax.translate import fit

        np, rows = self.np, []
        n = 20_000 // self.share
        for ds, dc, density in itertools.product((1024, 1792), (2048,), (0.05, 1.0)):
            ds, dc = ds // self.shrink, dc // self.shrink
            subject, atlas = self.pair(n, ds, dc, density)
            pair = subject.astype(np.float64), atlas.astype(np.float64)
            reference = numpy_procrustes(*pair)
            mine = fit(subject, atlas, ("procrustes",))["procrustes"]
            errors = {
                OURS: error(mine.matrix, reference),
                "scipy_f32": error(numpy_procrustes(subject, atlas), reference),
            }
            times = errors["scipy_f32"] / errors[OURS]
            sides = {
                OURS: lambda s=subject, c=atlas: fit(s, c, ("procrustes",)),
                "scipy_f64": lambda pair=pair: numpy_procrustes(*pair),
                "scipy_f32": lambda s=subject, c=atlas: numpy_procrustes(s, c),
            }
            more = {
                "shape": [n, ds, dc],
                "errors": errors,
                "error_smaller": {"times": round(times), "wanted": 100, "met": times >= 100},
                "polar": mine.meta["options"]["polar"],
            }
            name = f"procrustes {ds} x {dc}, atlas {density:.0%} dense"
            rows.append(self.row(name, {"scipy_f64": 2, "scipy_f32": 1}, sides, **more))
        return rows

    def ridge(self) -> list[dict]:
        """One penalty, a path by K-fold, a path by GCV."""
        from sklearn.linear_model import Ridge, RidgeCV
        from sklearn.model_selection import KFold

        from atlas_jax.translate import Options, fit

        np, rows = self.np, []
        n, ds, dc = 20_000 // self.share, 512 // self.shrink, 1024 // self.shrink
        for density in (1.0, 0.05):
            subject, atlas = self.pair(n, ds, dc, density)
            one = fit(subject, atlas, ("ridge",))["ridge"]
            alpha = one.meta["options"]["alpha"]
            model = Ridge(alpha=alpha, fit_intercept=False)
            exact = model.fit(atlas.astype("f8"), subject.astype("f8")).coef_
            sides: dict[str, Callable[[], Any]] = {
                OURS: lambda s=subject, c=atlas: fit(s, c, ("ridge",)),
                "scikit_learn": lambda s=subject, c=atlas, m=model: m.fit(c, s),
            }
            more: dict[str, Any] = {
                "shape": [n, ds, dc],
                "errors": {
                    OURS: error(one.matrix, exact),
                    "scikit_learn": error(model.fit(atlas, subject).coef_, exact),
                },
            }
            name = f"ridge, one penalty, atlas {density:.0%} dense"
            rows.append(self.row(name, {"scikit_learn": 1.25}, sides, **more))

        relative = tuple(float(x) for x in np.logspace(-5, 2, 20))
        settings = Options(alpha="kfold", alphas=relative)
        chosen: dict[str, float] = {}

        def ours() -> None:
            found = fit(subject, atlas, ("ridge",), options=settings)["ridge"]
            chosen[OURS] = found.meta["options"]["alpha"]

        def loop() -> None:
            errors = []
            for penalty in (alpha * x for x in relative):
                total = 0.0
                for train, held in KFold(5).split(atlas):
                    part = Ridge(alpha=penalty, fit_intercept=False)
                    part.fit(atlas[train], subject[train])
                    total += float(((subject[held] - part.predict(atlas[held])) ** 2).mean())
                errors.append(total)
            best = alpha * relative[int(np.argmin(errors))]
            Ridge(alpha=best, fit_intercept=False).fit(atlas, subject)
            chosen["scikit_learn"] = best

        row = self.row(
            "ridge, 20 penalties by 5 folds",
            {"scikit_learn": 10},
            {OURS: ours, "scikit_learn": loop},
            shape=[n, ds, dc],
        )
        rows.append(row | {"same_choice": same_choice(chosen)})

        few, picked = slice(0, 3000 // (2 if self.share > 1 else 1)), {}
        penalties = tuple(float(x) for x in np.logspace(-3, 2, 10))

        def gcv() -> None:
            found = fit(
                subject[few],
                atlas[few],
                ("ridge",),
                options=Options(alpha="gcv", alphas=penalties),
            )["ridge"]
            picked[OURS] = found.meta["options"]["alpha"]
            picked["scale"] = picked[OURS] / penalties[0]

        scale = float((atlas[few].astype("f8") ** 2).sum() / dc)

        def ridge_cv() -> None:
            grid = [scale * x for x in penalties]
            picked["scikit_learn"] = (
                RidgeCV(grid, fit_intercept=False).fit(atlas[few], subject[few]).alpha_
            )

        row = self.row(
            "ridge, 10 penalties by GCV",
            {"scikit_learn": 5},
            {OURS: gcv, "scikit_learn": ridge_cv},
            shape=[few.stop, ds, dc],
        )
        picked.pop("scale", None)
        rows.append(row | {"same_choice": same_choice(picked)})
        return rows

    def lens(self) -> list[dict]:
        """Semantic Lens."""
        from atlas_jax.translate import fit

        np = self.np
        n, ds, dc = 50_000 // self.share, 2048 // self.shrink, 4096 // self.shrink
        subject, atlas = self.pair(n, ds, dc, 0.05)

        def theirs() -> Any:
            best = np.argpartition(-subject, 20, axis=0)[:20]
            return np.stack([atlas[best[:, j]].mean(axis=0) for j in range(ds)])

        def ours() -> Any:
            return fit(subject, atlas, ("semantic_lens",))["semantic_lens"].matrix

        more = {"shape": [n, ds, dc], "errors": {OURS: error(ours(), theirs())}}
        sides = {OURS: ours, "numpy": theirs}
        return [self.row("semantic lens, k = 20", {"numpy": 2}, sides, **more)]

    def six(self) -> list[dict]:
        """Six methods in one pass, and each in its own.

        What is read and summed is shared, what is solved is not: the goal is for N / d of the size
        that a fit should have; the second row shows the other end.
        """
        from atlas_jax.translate import METHODS, fit

        names = [name for name in METHODS if name != "procrustes_exact"]
        rows = []
        for ds, dc, goal in ((1024, 2048, {"one by one": 2.0}), (2048, 4096, {})):
            n, ds, dc = 50_000 // self.share, ds // self.shrink, dc // self.shrink
            subject, atlas = self.pair(n, ds, dc, 0.05)

            def alone(s: Any = subject, c: Any = atlas) -> None:
                for name in names:
                    fit(s, c, (name,))

            sides = {OURS: lambda s=subject, c=atlas: fit(s, c, names), "one by one": alone}
            rows.append(self.row(f"six methods, {ds} x {dc}", goal, sides, shape=[n, ds, dc]))
        return rows

    def scaling(self) -> list[dict]:
        """Time against N, d_s, d_c, and peak memory against N."""
        from atlas_jax.translate import fit

        np = self.np
        full = {"n": 48_000 // self.share, "ds": 2048 // self.shrink, "dc": 4096 // self.shrink}
        rows = []
        for axis in full:
            points = []
            for part in (4, 2, 1):
                size = full | {axis: full[axis] // part}
                subject, atlas = self.pair(*size.values(), 0.05)
                times = []
                for _ in range(1 + self.repeats):
                    start = time.perf_counter()
                    fit(subject, atlas, ("covariance", "procrustes"))
                    times.append(time.perf_counter() - start)
                point = {**size, "seconds": round(statistics.median(times[1:]), 4)}
                if axis == "n":
                    with tempfile.TemporaryDirectory() as folder:
                        np.save(f"{folder}/subject.npy", subject)
                        np.save(f"{folder}/atlas.npy", atlas)
                        point["peak_mb"] = child("streamed", folder)
                points.append(point)
                print("  ", point, flush=True)
            x, y = np.log([p[axis] for p in points]), np.log([p["seconds"] for p in points])
            slope = round(float(np.polyfit(x, y, 1)[0]), 2)
            rows.append({"name": f"scaling with {axis}", "points": points, "slope": slope})
            print("  ", axis, "slope", slope, flush=True)
        return rows


def numpy_moments(subject: Any, atlas: Any) -> tuple[Any, Any]:
    """Covariance and correlation in memory."""
    n = len(subject)
    s, c = subject - subject.mean(axis=0), atlas - atlas.mean(axis=0)
    covariance = s.T @ c / n
    deviations = [(x * x).mean(axis=0) ** 0.5 for x in (s, c)]
    return covariance, covariance / deviations[0][:, None] / deviations[1][None, :]


def numpy_procrustes(subject: Any, atlas: Any) -> Any:
    """The polar factor by SVD; a row of zeros stays so."""
    import numpy as np
    import scipy.linalg

    def unit(x: Any) -> Any:
        norm = np.linalg.norm(x, axis=1, keepdims=True)
        return x / np.where(norm > 0, norm, np.ones_like(norm))

    u, _, vt = scipy.linalg.svd(unit(subject).T @ unit(atlas), full_matrices=False)
    return u @ vt


def error(found: Any, reference: Any) -> float:
    """||found - reference|| / ||reference||."""
    import numpy as np

    return float(np.linalg.norm(found - reference) / np.linalg.norm(reference))


def same_choice(chosen: Mapping[str, float]) -> dict[str, Any]:
    """Whether both sides chose the same penalty."""
    a, b = chosen.values()
    return {"chosen": dict(chosen), "met": abs(a - b) <= 1e-3 * abs(a)}


class FileRows:
    """The rows of a .npy file, read from disk slice by slice and not mapped into memory."""

    def __init__(self, path: str) -> None:
        import numpy as np

        mapped = np.load(path, mmap_mode="r")
        self.path, self.shape, self.offset = path, mapped.shape, mapped.offset
        self.meta = {"texts": "benchmark"}

    def __getitem__(self, rows: slice) -> Any:
        import numpy as np

        start, stop, _ = rows.indices(self.shape[0])
        count, width = stop - start, self.shape[1]
        offset = self.offset + 4 * start * width
        return np.fromfile(self.path, "f4", count * width, offset=offset).reshape(count, width)


def child(side: str, folder: str) -> float:
    """Peak memory in MB of one side in a process of its own, beyond what its imports take."""
    command = [sys.executable, __file__, "--child", side, folder]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return round(float(found.stdout.splitlines()[-1]), 1)


def be_child(side: str, folder: str) -> None:
    """Runs one side and prints its peak memory."""
    import numpy as np

    from atlas_jax.translate import fit

    rng = np.random.default_rng(0)
    warm = rng.random((64, 8), np.float32)
    fit(warm, warm, ("covariance", "correlation"))
    before = status("VmRSS")
    if side == "streamed":
        files = [FileRows(f"{folder}/{name}.npy") for name in ("subject", "atlas")]
        fit(*files, ("covariance", "correlation"))
    else:
        numpy_moments(*(np.load(f"{folder}/{name}.npy") for name in ("subject", "atlas")))
    print(status("VmHWM") - before)


def status(key: str) -> float:
    """A line of this process's status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1e3 for line in lines if line.startswith(key))


ROWS = ("moments", "procrustes", "ridge", "lens", "six", "scaling")


def main(arguments: argparse.Namespace) -> None:
    if arguments.child:
        be_child(*arguments.child)
        return
    threads = use_threads(arguments.threads)
    here = machine()  # with the load before the first run
    kept: dict[str, list[dict]] = {}
    if arguments.only and arguments.out.exists():  # the other rows stay
        kept = json.loads(arguments.out.read_text())["rows"]
    rows = []
    for name in arguments.only or ROWS:
        kept[name] = getattr(Bench(arguments.small, arguments.repeats), name)()
        rows += kept[name]
        result = {"benchmark": "fit", "machine": here, "threads": threads, "small": arguments.small}
        save(arguments.out, result | {"rows": {k: kept[k] for k in ROWS if k in kept}})
    for row in rows:
        for side, goal in row.get("goals", {}).items():
            met = "met" if goal["met"] else "MISSED"
            print(
                f"{row['name']:48s} {side:14s} {row['ratios'][side]:8.2f} of {goal['wanted']} {met}"
            )
    print(json.dumps({"rows": len(rows)}))


if __name__ == "__main__":
    parser = options(__doc__.splitlines()[0], "fit")
    parser.add_argument("--small", action="store_true", help="a quick look")
    parser.add_argument("--only", action="append", choices=ROWS, help="may be repeated")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    main(parser.parse_args())
