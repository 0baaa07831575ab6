"""Building a corpus: sentences per second, where the time goes, and the memory it takes.

    python benchmarks/corpus.py                    a million sentences out of about 1.5 million
    python benchmarks/corpus.py --sentences 20000  fewer

Writes documents of made-up words as .jsonl.zst, laid out as the Pile (`meta.pile_set_name`,
sources in about its proportions, every tenth sentence a repeat), and builds a corpus of them in a
process of its own, once for each number of workers. Memory is what that process and those it starts
have resident, read from /proc (Linux) every tenth of a second; pages that they share count twice.
The corpora must have the same bytes. Beside the builds: how fast the documents can be read, and
what NLTK's tokenizer alone takes of the splitting.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from measure import machine, options, save

SOURCES = {
    "Pile-CC": 0.34,
    "PubMed Central": 0.22,
    "ArXiv": 0.13,
    "Github": 0.11,
    "FreeLaw": 0.09,
    "StackExchange": 0.06,
    "Wikipedia (en)": 0.05,
}
BUILD = """
import json, sys, time
from atlas_jax.corpus import build
from atlas_jax.corpus.build import Corpus, build_corpus

seconds = {}

def timed(name, function):
    def wrapped(*arguments, **options):
        start = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            seconds[name] = seconds.get(name, 0) + time.perf_counter() - start
    return wrapped

build.split_all = timed("reading and splitting", build.split_all)
build.write_unique = timed("removing repeats", build.write_unique)
Corpus.load = timed("reading back and checking", Corpus.load)
source, n, workers, out = sys.argv[1:]
start = time.perf_counter()
corpus = build_corpus(source, n=int(n), workers=int(workers), out=out)
seconds["all"] = time.perf_counter() - start
seconds["drawing and writing"] = 2 * seconds["all"] - sum(seconds.values())
print(json.dumps({"seconds": seconds, "counts": corpus.counts}))
"""


def main() -> None:
    parser = options(__doc__.splitlines()[0], "corpus")
    parser.add_argument("--sentences", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test.jsonl.zst"
        made = write_documents(path, int(1.5 * arguments.sentences))
        result = {
            "machine": machine(),
            "source": made | {"mb": round(path.stat().st_size / 1e6, 1)},
            "alone": alone(path),
            "builds": [
                build(path, arguments.sentences, n, Path(folder) / str(n))
                for n in arguments.workers
            ],
        }
    if len({run["sha256"] for run in result["builds"]}) != 1:
        raise SystemExit("the numbers of workers gave different bytes")
    save(arguments.out, result)


def build(path: Path, n: int, workers: int, out: Path) -> dict:
    """Builds in another process and watches it."""
    command = [sys.executable, "-c", BUILD, str(path), str(n), str(workers), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = {"all": 0, "the one that reads": 0, "one that splits": 0}
    while process.poll() is None:
        tree = [*resident(process.pid), 0, 0]
        for who, now in zip(peak, (sum(tree), tree[0], max(tree[1:])), strict=True):
            peak[who] = max(peak[who], now)
        time.sleep(0.1)
    assert process.stdout
    if process.returncode:
        raise SystemExit("the build failed")
    found = json.loads(process.stdout.read())
    totals = {stage: sum(by.values()) for stage, by in found["counts"].items()}
    content = (out / "corpus.parquet").read_bytes() + (out / "corpus.json").read_bytes()
    result = {
        "workers": workers,
        "seconds": {stage: round(s, 2) for stage, s in found["seconds"].items()},
        "sentences_per_s": round(totals["sentences"] / found["seconds"]["all"]),
        "peak_mb": {who: round(size / 1e6) for who, size in peak.items()},
        "counts": totals,
        "parquet_mb": round((out / "corpus.parquet").stat().st_size / 1e6, 1),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    print(result, flush=True)
    return result


def resident(pid: int) -> Iterator[int]:
    """Resident bytes of a process and of those below it, itself first."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        below = [
            child
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return
    lines = [line.split() for line in status.splitlines() if line.startswith("VmRSS")]
    yield int(lines[0][1]) * 1024 if lines else 0
    for child in below:
        yield from resident(int(child))


def alone(path: Path) -> dict[str, float]:
    """Seconds for reading all documents, and for splitting some: all of it, and NLTK's part."""
    from atlas_jax.corpus import documents
    from atlas_jax.corpus.sentences import punkt
    from atlas_jax.corpus.spill import chunks, write_spill

    start = time.perf_counter()
    characters = sum(len(document.text) for document in documents(path))
    reading = time.perf_counter() - start
    chunk = next(chunks(islice(documents(path), 2000)))
    splitter, size = punkt(), sum(len(document.text) for document in chunk)
    start = time.perf_counter()
    for document in chunk:
        splitter.tokenize(document.text)
    tokenizing = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        write_spill(chunk, Path(folder) / "one.arrow", splitter, 0)
        spilling = time.perf_counter() - start
    return {
        "reading_mb_per_s": round(characters / reading / 1e6, 1),
        "splitting_mb_per_s": round(size / spilling / 1e6, 2),
        "nltk_share_of_splitting": round(tokenizing / spilling, 3),
    }


def write_documents(path: Path, sentences: int) -> dict[str, int]:
    """Made-up documents of about so many sentences in all."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    weights = 1 / np.arange(1, 27)
    words = np.array(
        [
            "".join(rng.choice(letters, n, p=weights / weights.sum()))
            for n in rng.poisson(5, 20_000) + 1
        ]
    )
    often = 1 / np.arange(10, 20_010)
    often /= often.sum()
    names, shares = list(SOURCES), np.array(list(SOURCES.values()))
    ends = [". ", ". ", ". ", "! ", "? ", ".\n\n", '." ', " (e.g. this one). ", " by Dr. Who. "]
    repeats: list[str] = []
    written = documents = 0
    with pa.output_stream(str(path), compression="zstd") as stream:
        while written < sentences:
            lengths = np.clip(rng.lognormal(2.8, 0.7, 5000), 1, 150).astype(int)
            stock = iter(rng.choice(words, lengths.sum(), p=often).tolist())
            found = [
                " ".join(islice(stock, int(n))).capitalize() + ends[i]
                for n, i in zip(lengths, rng.integers(0, len(ends), len(lengths)), strict=True)
            ]
            repeats = repeats or found[:500]
            for i in range(0, len(found), 10):
                found[i] = repeats[int(rng.integers(0, 500))]
            cuts = np.sort(rng.integers(0, len(found), len(found) // 40))
            for start, end in zip([0, *cuts], [*cuts, len(found)], strict=True):
                source = str(rng.choice(names, p=shares / shares.sum()))
                row = {"text": "".join(found[start:end]), "meta": {"pile_set_name": source}}
                stream.write(json.dumps(row).encode() + b"\n")
                documents += 1
            written += len(found)
    return {"documents": documents, "sentences": written}


if __name__ == "__main__":
    main()
