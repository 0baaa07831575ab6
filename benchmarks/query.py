"""How long a query in words takes, at 16 and 65 thousand descriptions.

The first query of a process reads the descriptions' vectors from the cache and loads and compiles
the embedder; later ones embed their own words only. Descriptions are made of words of the atlas
that ships; embedding them all comes before, once, and is measured too.

    python benchmarks/query.py --sizes 16384 65536
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

import measure

TEXTS = ("the sea and ships", "dogs and cats", "courts and judges", "money and banks", "music")


def atlas_of(count: int):
    """An atlas of `count` described features; its autoencoder is never run."""
    import jax.numpy as jnp
    import numpy as np

    from atlas_jax.atlas import SAE, Atlas, Labels, load_atlas

    words = sorted({label.text for _, label in load_atlas().labels.pairs()})
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(words), (count, 2))
    pairs = [(i, f"{words[a]}; {words[b][:40]}") for i, (a, b) in enumerate(picks)]
    zeros = jnp.zeros
    sae = SAE(zeros((8, count)), zeros(count), zeros((count, 8)), zeros(8))
    return Atlas(sae, "blocks.0.hook_resid_post", Labels.of(pairs), "benchmark", lambda: None)


def one(count: int) -> None:
    """Prints the seconds of a process's first query and of those after it."""
    atlas = atlas_of(count)
    start = time.perf_counter()
    atlas.query(text=TEXTS[0])
    first = time.perf_counter() - start
    later = []
    for text in TEXTS * 4:
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
        start = time.perf_counter()
        vectors = atlas_of(count).index.vectors  # embeds what is not in the cache
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
            "embedding_s": round(embedding, 2),
            "first_s": [round(run["first_s"], 3) for run in runs],
            "later_ms_median": round(statistics.median(later), 2),
            "later_ms_max": round(max(later), 2),
        }
        print(count, sizes[count], flush=True)
    measure.save(options.out, {"machine": measure.machine(), "cores": cores, "sizes": sizes})


if __name__ == "__main__":
    main()
