"""How long the explorer takes to answer, on a run of the paper's size: 14,336 x 16,384.

The run is of random numbers, with an atlas that is never run: two translations of 0.94 GB, 20,000
held-out rows, 16,384 descriptions. Making it is not measured. Then processes of their own open it
as `atlas-jax explore` does; their answers are what the page would show: ranking, feature, texts
and distribution, in HTML. Left out are the browser, and the model's run for shaded tokens. The peak
of memory says how little of the translations is read. The last process finds nothing in the
system's file cache.

    python benchmarks/explore.py --subject 512 --atlas 1024 --rows 2000 --repeats 1     a quick look
    python benchmarks/explore.py
"""

from __future__ import annotations

import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import measure

GOALS = {"first_s": 2.0, "later_ms_max": 300.0}
SITE = "blocks.19.mlp.hook_post"
QUERIES = 20
_BLOCK = 1024


def make_run(folder: Path, subject: int, concepts: int, rows: int) -> None:
    """Everything that the explorer opens but models."""
    import jax.numpy as jnp
    import numpy as np

    from atlas_jax.activations import capture
    from atlas_jax.atlas import SAE, Labels, save_saelens
    from atlas_jax.corpus import Corpus, Texts
    from atlas_jax.pipeline.recipe import Recipe
    from atlas_jax.translate import Translation

    rng = np.random.default_rng(0)
    labels = Labels.of(enumerate(descriptions(concepts)))
    zeros = jnp.zeros
    sae = SAE(zeros((8, concepts)), zeros(concepts), zeros((concepts, 8)), zeros(8))
    save_saelens(sae, folder / "atlas", site="blocks.0.hook_resid_post", model_name="none")
    labels.save(folder / "atlas" / "labels.jsonl")
    recipe = Recipe().with_values({"atlas.reference": str(folder / "atlas")})
    (folder / "manifest.json").write_text(json.dumps({"recipe": recipe.to_dict(), "stages": {}}))
    texts = [f"Text number {i} of the benchmark, which says little." for i in range(rows)]
    corpus = Corpus(Texts(texts[:1]), Texts(texts))
    corpus.save(folder / "corpus")
    out = folder / "activations" / "eval" / "subject"
    store = capture(RandomModel(subject), corpus.eval, [SITE], out=out, batch_tokens=16384)
    store.top_samples(SITE)
    for method in ("procrustes", "covariance"):
        matrix = np.empty((subject, concepts), np.float32)
        for start in range(0, subject, _BLOCK):
            matrix[start : start + _BLOCK] = rng.standard_normal(
                matrix[start : start + _BLOCK].shape, np.float32
            )
        path = folder / "translations" / SITE / f"{method}.safetensors"
        Translation(method, matrix, {"subject": {"site": SITE}}).save(path)


def descriptions(count: int) -> list[str]:
    """As in benchmarks/query.py: words of the atlas that ships, and a number."""
    import numpy as np

    from atlas_jax.atlas import load_atlas

    words = [text[:40] for text in sorted({t.text for _, t in load_atlas().labels.pairs()})]
    picks = np.random.default_rng(0).integers(0, len(words), count)
    return [f"{words[pick]} {i}" for i, pick in enumerate(picks)]


class RandomModel:
    """What `capture` needs of a model; its activations are noise."""

    name, fingerprint, mesh = "random", "random-float32", None

    def __init__(self, width: int) -> None:
        self._width = width
        self.sites = (SITE,)
        self.tokenizer = self
        self.pad_id = 0

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [[1, 2, 3, len(text)] for text in texts]

    def pad(self, rows: list[list[int]], length: int) -> Any:
        import numpy as np

        tokens = np.zeros((len(rows), length), np.int32)
        tokens[:, :4] = rows
        return tokens, tokens > 0

    def width(self, site: str) -> int:
        return self._width

    def read(self, tokens: Any, mask: Any, sites: Any, pool: Any = None) -> dict[str, Any]:
        import jax

        self.calls = getattr(self, "calls", 0) + 1
        key = jax.random.key(self.calls)
        return {SITE: jax.random.normal(key, (len(tokens), self._width))}


def answer(folder: Path) -> None:
    """Prints the seconds of a process's start and answers."""
    begun = time.perf_counter()
    from atlas_jax.cli.console import keep_compiled_programs
    from atlas_jax.explorer.answers import Answers
    from atlas_jax.explorer.explored import Explored
    from atlas_jax.explorer.link import Place
    from atlas_jax.explorer.server import make_app

    keep_compiled_programs()
    explored = Explored(folder)
    make_app(explored)
    explored.warm()
    ready = time.perf_counter() - begun
    answers, taken = Answers(explored), []
    words = [text.rsplit(" ", 1)[0] for text in descriptions(QUERIES + 1)]
    for i, text in enumerate(words):
        place = Place(text=text, site=SITE, method=explored.method)
        start = time.perf_counter()
        (shown,) = answers.search(place)
        taken.append(time.perf_counter() - start)
        assert "Distribution over" in shown.detail, shown.message
        start = time.perf_counter()
        (shown,) = answers.show(Place(weights=shown.place.weights, site=SITE, method="covariance",
                                      feature=(SITE, 7 * i)))  # fmt: skip
        taken.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = {"ready_s": ready, "first_s": taken[0], "later_ms": [1e3 * t for t in taken[1:]]}
    print(json.dumps({**found, "peak_gb": peak}))


def main() -> None:
    parser = measure.options(__doc__ or "", "explore")
    parser.add_argument("--subject", type=int, default=14_336)
    parser.add_argument("--atlas", type=int, default=16_384)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, help="keep the run there")
    parser.add_argument("--answer", type=Path, help="measure this run, in this process")
    options = parser.parse_args()
    cores = measure.use_threads(options.threads)
    if options.answer:
        answer(options.answer)
        return
    folder = options.folder or Path(tempfile.mkdtemp())
    try:
        if not (folder / "translations").exists():
            folder.mkdir(parents=True, exist_ok=True)
            make_run(folder, options.subject, options.atlas, options.rows)
        command = [sys.executable, __file__, "--answer", str(folder)]
        command += ["--threads", str(options.threads)]
        runs = []
        # The first embeds the descriptions, once for all; the last reads from the disk.
        for i in range(options.repeats + 2):
            if i == options.repeats + 1:
                measure.forget_cached(folder)
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
            print({k: v for k, v in runs[-1].items() if k != "later_ms"}, flush=True)
        runs, cold = runs[1:-1], runs[-1]
        later = [t for run in runs for t in run["later_ms"]]
        result = {
            "size": [options.subject, options.atlas],
            "rows": options.rows,
            "ready_s": round(statistics.median(run["ready_s"] for run in runs), 2),
            "first_s": round(max(run["first_s"] for run in runs), 3),
            "later_ms_median": round(statistics.median(later), 1),
            "later_ms_max": round(max(later), 1),
            "cold_first_s": round(cold["first_s"], 3),
            "cold_later_ms_max": round(max(cold["later_ms"]), 1),
            "peak_gb": round(max(run["peak_gb"] for run in runs), 2),
        }
        goals = {n: {"at_most": g, "met": result[n] <= g} for n, g in GOALS.items()}
        result["goals"] = goals
        print(result)
        measure.save(options.out, {"machine": measure.machine(), "cores": cores, **result})
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
