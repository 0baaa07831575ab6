"""How long a query in words takes, at 16 and 65 thousand descriptions.

The first query of a process reads the descriptions' vectors from the cache and loads and compiles
the embedder; later ones embed their own words only. Each description is one of the atlas that
ships and a number, so that all differ. Embedding them comes before, once, and is no part of a
query: its rate is recorded too, for those that were not in the cache.

    python benchmarks/query.py --sizes 1024 --repeats 1      a quick look
    python benchmarks/query.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

import measure

GOALS = {"first_s": 10.0, "later_ms_median": 50.0}
QUERIES = 20


def atlas_of(count: int):
    """An atlas of `count` described features; its autoencoder is never run."""
    import jax.numpy as jnp
    import numpy as np

    from atlas_jax.atlas import SAE, Atlas, Labels, load_atlas

    words = [text[:40] for text in sorted({t.text for _, t in load_atlas().labels.pairs()})]
    picks = np.random.default_rng(0).integers(0, len(words), count)
    pairs = [(i, f"{words[pick]} {i}") for i, pick in enumerate(picks)]
    zeros = jnp.zeros
    sae = SAE(zeros((8, count)), zeros(count), zeros((count, 8)), zeros(8))
    return Atlas(sae, "blocks.0.hook_resid_post", Labels.of(pairs), "benchmark", lambda: None)


class Counted:
    """The sentence embedder, counting what it is given."""

    def __init__(self) -> None:
        from atlas_jax.atlas import SentenceEmbedder

        self.inner, self.count, self.seconds = SentenceEmbedder(), 0, 0.0
        self.width, self.fingerprint = self.inner.width, self.inner.fingerprint

    def embed(self, texts):
        start = time.perf_counter()
        found = self.inner.embed(texts)
        self.count, self.seconds = (
            self.count + len(texts),
            self.seconds + time.perf_counter() - start,
        )
        return found


def one(count: int) -> None:
    """Prints the seconds of a process's first query and of those after it."""
    atlas = atlas_of(count)
    # The words of a description without its number: sure to be near to something.
    texts = [atlas.describe(i).rsplit(" ", 1)[0] for i in range(QUERIES + 1)]
    start = time.perf_counter()
    atlas.query(text=texts[0])
    first = time.perf_counter() - start
    later = []
    for text in texts[1:]:
        start = time.perf_counter()
        atlas.query(text=text)
        later.append(time.perf_counter() - start)
    print(json.dumps({"first_s": first, "later_ms": [1e3 * t for t in later]}))


def main() -> None:
    parser = measure.options(__doc__ or "", "query")
    parser.add_argument("--sizes", type=int, nargs="+", default=[16_384, 65_536])
    parser.add_argument("--one", type=int, help="measure this size alone, in this process")
    options = parser.parse_args()
    cores = measure.use_threads(options.threads)
    if options.one:
        one(options.one)
        return
    sizes = {}
    for count in options.sizes:
        atlas, embedded = atlas_of(count), Counted()
        atlas.embedder = embedded
        start = time.perf_counter()
        vectors = atlas.index.vectors  # embeds what is not in the cache
        embedding = time.perf_counter() - start
        runs = []
        for _ in range(options.repeats):
            command = [sys.executable, __file__, "--one", str(count)]
            command += ["--threads", str(options.threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
        later = [t for run in runs for t in run["later_ms"]]
        sizes[count] = {
            "descriptions": len(vectors),
            "embedded_now": embedded.count,
            "index_s": round(embedding, 2),
            "embedded_per_s": round(embedded.count / embedded.seconds, 1)
            if embedded.count
            else None,
            "runs_first_s": [round(run["first_s"], 3) for run in runs],
            "first_s": round(max(run["first_s"] for run in runs), 3),
            "later_ms_median": round(statistics.median(later), 2),
            "later_ms_max": round(max(later), 2),
        }
        goals = {n: {"at_most": g, "met": sizes[count][n] <= g} for n, g in GOALS.items()}
        sizes[count]["goals"] = goals
        print(count, sizes[count], flush=True)
    measure.save(options.out, {"machine": measure.machine(), "cores": cores, "sizes": sizes})


if __name__ == "__main__":
    main()
