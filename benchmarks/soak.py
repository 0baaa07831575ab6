"""A soak: capture and fit again and again in one process, which must neither grow nor leak.

    python benchmarks/soak.py --minutes 30          on a machine that does nothing else
    python benchmarks/soak.py --minutes 3 --small   a quick look

    rounds      two tiny models read new texts into stores, which are opened, fitted with five
                methods, asked, and deleted: two thirds of the time
    capture     one long capture: the rest

Every second the process is asked for its memory, open descriptors, threads, live arrays and
compilations. All texts are read once before, and the first third of each stage is left to caches
that fill up. Memory passes where the 95 % interval of its slope ends below 1 MB a minute (means of
20 blocks of samples: neighbours go up and down together), descriptors, threads and arrays where the
least of the last quarter is at most 2 above that of the first, and compilations where the last
quarter has none.

The time left that the project's own progress bar names when a tenth is done is compared with what
the rest then took, for every stage of more than 20 seconds: it passes within a fifth.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
from measure import machine, options, save

WARM = 1 / 3
BLOCKS = 20
MOST_MB_A_MINUTE = 1.0
STEADY = ("descriptors", "threads", "arrays")
SLACK = 2
PART = 1000
ETA_ERROR = 0.2
LONG = 20.0
METHODS = ("covariance", "correlation", "ridge", "procrustes", "semantic_lens")


def slope(seconds: Sequence[float], values: Sequence[float]) -> tuple[float, float, float]:
    """Per minute: the slope of a series and its 95 % interval, from means of 20 blocks."""
    from scipy.stats import t

    parts = np.array_split(np.arange(len(values)), min(BLOCKS, len(values)))
    x, y = (np.array([np.mean(np.asarray(a)[p]) for p in parts]) for a in (seconds, values))
    x = (x - x.mean()) / 60
    found = float(x @ y / (x @ x))
    rest = y - y.mean() - found * x
    error = float(np.sqrt(rest @ rest / (len(x) - 2) / (x @ x)))
    reach = float(t.ppf(0.975, len(x) - 2)) * error
    return found, found - reach, found + reach


def judge(samples: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """What the samples of one stage say, each with `passed`; the first third is warm-up.

    Raises:
        ValueError: fewer than six samples after that.
    """
    kept = samples[int(WARM * len(samples)) :]
    if len(kept) < 6:
        raise ValueError(f"Expected at least six samples after the warm-up, got {len(kept)}.")
    seconds = [sample["seconds"] for sample in kept]
    middle, low, high = slope(seconds, [sample["rss_mb"] for sample in kept])
    found: dict[str, Any] = {
        "rss_mb": {
            "first": round(kept[0]["rss_mb"], 1),
            "last": round(kept[-1]["rss_mb"], 1),
            "per_minute": [round(value, 3) for value in (low, middle, high)],
            "passed": high < MOST_MB_A_MINUTE,
        }
    }
    edge = max(3, len(kept) // 4)
    for name in STEADY:
        values = [sample[name] for sample in kept]
        # The least of a stretch is what remains between two rounds.
        first, last = min(values[:edge]), min(values[-edge:])
        found[name] = {"first": first, "last": last, "passed": last <= first + SLACK}
    compiled = [sample["compilations"] for sample in kept[-edge:]]
    same = compiled[0] == compiled[-1]
    found["compilations"] = {"first": compiled[0], "last": compiled[-1], "passed": same}
    return found


def judge_times(stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each long stage, how far off the time left was that it named after its first tenth."""
    return [
        {**stage, "error": round(error, 3), "passed": error <= ETA_ERROR}
        for stage in stages
        if stage["took"] + stage["left"] >= LONG
        for error in (abs(stage["shown"] - stage["left"]) / stage["left"],)
    ]


class Watch:
    """Samples of this process, taken by a thread as long as the context lasts."""

    def __init__(self, every: float) -> None:
        import jax

        self.samples: list[dict[str, float]] = []
        self._every, self._over, self._compiled = every, threading.Event(), 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        jax.monitoring.register_event_duration_secs_listener(self._count)

    def _count(self, event: str, seconds: float, **_: object) -> None:
        self._compiled += event.endswith("backend_compile_duration")

    def __enter__(self) -> Self:
        self._begun = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        import jax

        pages = os.sysconf("SC_PAGE_SIZE")
        while not self._over.wait(self._every):
            self.samples.append(
                {
                    "seconds": time.perf_counter() - self._begun,
                    "rss_mb": int(Path("/proc/self/statm").read_text().split()[1]) * pages / 2**20,
                    "descriptors": len(os.listdir("/proc/self/fd")),
                    "threads": threading.active_count(),
                    "arrays": len(jax.live_arrays()),
                    "compilations": self._compiled,
                }
            )


def watch_bars(found: list[dict[str, Any]]) -> None:
    """Makes the bars of capture and fit note the time left that they show after a tenth."""
    from atlas_jax.activations import recorder
    from atlas_jax.progress import Bar
    from atlas_jax.translate import accumulate

    class Noted(Bar):
        def __init__(self, label: str, total: float | None = None) -> None:
            super().__init__(label, total)
            self.label, self.total, self.done = label, total, 0.0
            self.begun, self.tenth, self.shown = time.perf_counter(), 0.0, None

        def advance(self, n: float = 1) -> None:
            super().advance(n)
            self.done += n
            if self.shown is None and self.total and self.done >= self.total / 10:
                self.tenth, self.shown = time.perf_counter(), self.remaining

        def __exit__(self, *of: Any) -> None:
            super().__exit__(*of)
            if self.shown is not None:
                took, left = self.tenth - self.begun, time.perf_counter() - self.tenth
                about = {"stage": self.label, "shown": self.shown}
                found.append(about | {"took": round(took, 2), "left": round(left, 2)})

    recorder.Bar = accumulate.Bar = Noted  # type: ignore[misc]


def sentences(n: int, seed: int) -> Any:
    """So many sentences of Python's documentation; another order for each seed."""
    from atlas_jax.corpus import Texts, documents

    docs = islice(documents("packages:python-docs"), 60)
    parts = [s.strip() for doc in docs for s in doc.text.split(". ") if 20 < len(s) < 400]
    return Texts([parts[i] for i in np.random.default_rng(seed).integers(len(parts), size=n)])


def one_round(model: Any, atlas: Any, texts: Any, folder: Path, tokens: int) -> None:
    """Both models read the texts, the stores are fitted and asked, and all is deleted."""
    import atlas_jax as aj

    with tempfile.TemporaryDirectory(dir=folder) as place:
        store = aj.capture(model, texts, out=f"{place}/subject", max_tokens=tokens)
        concepts = aj.capture(atlas, texts, out=f"{place}/atlas", max_tokens=tokens)
        for site in store.sites:
            maps = aj.fit(store[site], concepts, methods=METHODS)
            path = maps["procrustes"].save(f"{place}/{site}.safetensors")
            loaded = aj.Translation.load(path)
            query = atlas.query(features=[0, 2])
            aj.identify(loaded, query, store, texts, k=3, samples=3)


def soak(
    model: Any,
    atlas: Any,
    draw: Callable[[int, int], Any],
    texts: int,
    minutes: float,
    folder: Path,
    every: float = 1.0,
    tokens: int = 64,
    corpora: int = 4,
) -> dict[str, Any]:
    """Runs both stages; see the head of this file.

    Args:
        model: the subject.
        atlas: of another model.
        draw: gives n texts for a seed.
        texts: of a round.
        minutes: of both stages together, after the warm-up.
        folder: for the stores.
        every: seconds between two samples.
        tokens: longer texts are cut.
        corpora: that the rounds take in turn.
    """
    import atlas_jax as aj

    stages: list[dict[str, Any]] = []
    watch_bars(stages)
    read = [draw(texts, seed) for seed in range(corpora)]
    for part in read:
        one_round(model, atlas, part, folder, tokens)
    stages.clear()  # of the warm-up, which compiles
    begun, rounds = time.perf_counter(), 0
    with Watch(every) as watch:
        while time.perf_counter() - begun < 40 * minutes:
            one_round(model, atlas, read[rounds % corpora], folder, tokens)
            gc.collect()
            rounds += 1
    begun = time.perf_counter()
    how = {"max_tokens": tokens, "rows_per_part": PART}  # parts alike: their shapes come early
    aj.capture(model, read[0], out=folder / "rate", **how)
    rate = texts / (time.perf_counter() - begun)
    much = draw(max(texts, int(rate * 20 * minutes)), 9)
    aj.capture(model, much[: 6 * PART], out=folder / "before", **how)
    stages.clear()
    with Watch(every) as long:
        aj.capture(model, much, out=folder / "long", progress="long capture", **how)
    return {
        "rounds": rounds,
        "texts": {"of_a_round": texts, "of_the_long_capture": len(much)},
        "judged": {
            "rounds": judge(watch.samples),
            "capture": judge(since_longest(long.samples, stages)),
        },
        "time_left": judge_times(stages),
        "samples": {"rounds": thinned(watch.samples), "capture": thinned(long.samples)},
    }


def since_longest(
    samples: Sequence[Mapping[str, float]], stages: Sequence[Mapping[str, Any]]
) -> Sequence[Mapping[str, float]]:
    """The samples from the beginning of the longest stage on.

    That of a capture is the reading; before it all texts become tokens, which are kept. A stage
    too short to be judged alone is judged with what came before.
    """
    took = max((stage["took"] + stage["left"] for stage in stages), default=float("inf"))
    begun = samples[-1]["seconds"] - took
    kept = [sample for sample in samples if sample["seconds"] >= begun]
    return kept if len(kept) >= 12 else samples


def thinned(samples: Sequence[Mapping[str, float]], most: int = 60) -> list[dict[str, float]]:
    """A few of the samples, rounded, for the file."""
    step = max(1, len(samples) // most)
    return [{key: round(value, 1) for key, value in one.items()} for one in samples[::step]]


def passed(result: Mapping[str, Any]) -> bool:
    """Whether nothing grew, and the time left was right."""
    judged = [what["passed"] for stage in result["judged"].values() for what in stage.values()]
    return all(judged) and all(stage["passed"] for stage in result["time_left"])


def main() -> None:
    """Runs it and writes benchmarks/results/soak.json; ends with 1 where something grew."""
    parser: argparse.ArgumentParser = options(__doc__ or "", "soak")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--small", action="store_true", help="fewer texts a round")
    asked = parser.parse_args()
    import atlas_jax as aj
    from atlas_jax.pipeline.smoke import smoke_recipe

    with tempfile.TemporaryDirectory(prefix="atlas-jax-soak-") as place:
        folder = Path(place)
        smoke_recipe(folder)
        model, atlas = aj.load_model(folder / "subject"), aj.load_atlas(folder / "atlas")
        texts = 300 if asked.small else 4000
        result = soak(model, atlas, sentences, texts, asked.minutes, folder)
    result = {"benchmark": "soak", "minutes": asked.minutes, "machine": machine()} | result
    result["passed"] = passed(result)
    for stage, found in result["judged"].items():
        for name, what in found.items():
            print(stage, name, what)
    for stage in result["time_left"]:
        print(stage)
    save(asked.out, result)
    raise SystemExit(0 if result["passed"] else 1)


if __name__ == "__main__":
    main()
