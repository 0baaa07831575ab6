"""Kills a capture again and again, each time at a random moment, and lets it go on.

    python kill_loop.py conftest.py folder kills seed

Everything is imported once, and each attempt is a fork of this process. What was seen is printed as
JSON.
"""

import json
import os
import random
import runpy
import signal
import sys
import time
from pathlib import Path

import numpy as np

from atlas_jax.activations import capture, writer
from atlas_jax.corpus import Texts

TableSource = runpy.run_path(sys.argv[1])["TableSource"]
FOLDER, KILLS = Path(sys.argv[2]), int(sys.argv[3])
RNG = random.Random(int(sys.argv[4]))
WORDS = np.random.default_rng(1).integers(0, 99, (800, 12))
TEXTS = Texts([" ".join(f"w{i}" for i in row[: 4 + n % 9]) for n, row in enumerate(WORDS)])


def attempt(store, log, ready):
    """One run of the capture, in this process; says when everything is compiled."""
    settings = {"rows_per_part": 32, "batch_tokens": 256, "pool": ("max", "mean")}
    source = TableSource(widths=(256, 512))
    capture(source, TEXTS[:64], out="memory://warm", **settings)
    os.write(ready, b"!")
    real = writer.StoreWriter.write

    def noted(self, part, start, arrays):
        with open(log, "a") as file:
            file.write(f"{part}\n")
        real(self, part, start, arrays)

    writer.StoreWriter.write = noted
    capture(source, TEXTS, out=store, **settings)


def fork(store, log):
    done, ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            attempt(store, log, ready)
            code = 0
        finally:
            os._exit(code)
    os.close(ready)
    os.read(done, 1)
    os.close(done)
    return pid


def ledger(store):
    return {int(p.name) for p in (store / "ledger").glob("0*") if p.name.isdigit()}


def contents(store):
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file() and path.parts[len(store.parts)] not in ("report", ".writer")
    }


def main():
    log = FOLDER / "parts"
    whole = FOLDER / "whole"
    pid, begun = fork(whole, log), time.perf_counter()
    _, status = os.waitpid(pid, 0)
    seconds = time.perf_counter() - begun
    assert status == 0
    killed, stores, moments, again = 0, 0, [], []
    while killed < KILLS or moments:
        store = FOLDER / f"store-{stores}"
        finished = ledger(store)
        log.unlink(missing_ok=True)
        pid = fork(store, log)
        if killed < KILLS:
            time.sleep(RNG.uniform(0, seconds / 2))
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        computed = {int(line) for line in log.read_text().split()} if log.exists() else set()
        again += sorted(computed & finished)
        if os.WIFSIGNALED(status):
            killed += 1
            moments.append(len(ledger(store)))
            continue
        assert status == 0 and contents(store) == contents(whole), "not the same bytes"
        stores, moments_seen = stores + 1, moments
        moments = []
        print(json.dumps({"store": stores, "finished_at_each_kill": moments_seen}))
    print(json.dumps({"killed": killed, "stores": stores, "computed_again": again}))


main()
