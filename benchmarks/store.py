"""The store beside a NumPy memmap: MB/s written and read cold, and bytes of sparse activations.

    python benchmarks/store.py                  1 GB of each kind
    python benchmarks/store.py --megabytes 128 --repeats 2      a quick look

    dense       float32 and bfloat16 rows of width 2,048, written in parts as `capture` does it, on
                the disk at the end (fsync); read in batches of 4,096 rows after the system has
                forgotten the files
    sparse      rows of width 16,384 of which 4.6 % are not zero, and 12 % of the shipped atlas's
                width 4,096: what sparse autoencoders give after max-pooling over a sentence. How
                often a feature is active is drawn from a lognormal distribution, how much from an
                exponential one
    memmap      the same rows in a .npy file; of bfloat16, its bits

MB are of dense bytes on all sides. `rows` are random gathers of 1,024 rows, `columns` of 8 columns,
`top_samples` the 32 strongest samples of every feature, `devices` batches of 4,096 rows as
jax.Arrays.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from measure import disk_bytes, forget_cached, in_turn, machine, options, rates, save, use_threads

WIDTH = 2048
ROWS = 4096
GOALS = {"write": 0.8, "cold_read": 0.8, "bytes": 0.13}


def sparse(rng: np.random.Generator, rows: int, width: int, density: float) -> np.ndarray:
    """Activations of which a share of `density` is not zero."""
    often = rng.lognormal(0.0, 1.2, width)
    often = np.minimum(often * density / often.mean(), 0.95)
    often = np.minimum(often * density / often.mean(), 1.0)
    values = rng.exponential(1.0, (rows, width)).astype(np.float32)
    return np.where(rng.random((rows, width)) < often, values, np.float32(0))


def touch_memory(gigabytes: int = 3) -> None:
    """Takes memory from a virtual machine's host, off the clock: the first touch is slow."""
    np.ones(gigabytes * 2**27)


class Kind:
    """Rows of one kind, and where they are kept."""

    def __init__(self, folder: Path, name: str, block: np.ndarray, megabytes: int) -> None:
        self.store, self.file = folder / name, folder / f"{name}.npy"
        self.name, self.block = name, block
        self.parts = max(1, round(megabytes * 1e6 / block.nbytes))
        self.shape = (self.parts * len(block), block.shape[1])
        self.megabytes = self.parts * block.nbytes / 1e6
        self.bits = np.uint16 if block.dtype.itemsize == 2 else block.dtype

    def write(self) -> None:
        """As `capture` does it."""
        from atlas_jax.activations.writer import StoreWriter

        site = {"width": self.shape[1], "dtype": self.block.dtype.name, "pools": ["max"]}
        rows = {"rows": self.shape[0], "rows_per_part": len(self.block), "n": self.shape[0]}
        meta = {"model": "", "texts": "", "tokens": 0, **rows, "sites": {"site": site}}
        with StoreWriter(self.store, meta) as writer:
            for part in range(self.parts):
                writer.write(part, part * len(self.block), {"site/max": self.block})

    def write_memmap(self) -> None:
        out = np.lib.format.open_memmap(self.file, "w+", self.bits, self.shape)
        for part in range(self.parts):
            start = part * len(self.block)
            out[start : start + len(self.block)] = self.block.view(self.bits)
        out.flush()

    def rows(self) -> Any:
        from atlas_jax.activations import ActivationStore

        return ActivationStore.open(self.store)["site"]

    def read(self) -> float:
        return sum(float(batch[-1, 0]) for batch in self.rows().batches(ROWS))

    def read_memmap(self) -> float:
        rows = np.load(self.file, mmap_mode="r")
        return sum(
            float(np.array(rows[start : start + ROWS])[-1, 0])
            for start in range(0, len(rows), ROWS)
        )

    def on_devices(self) -> None:
        import jax

        from atlas_jax.activations import device_batches

        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        for batch, _ in device_batches(self.rows(), ROWS, sharding):
            batch.block_until_ready()

    def top(self) -> None:
        from atlas_jax.activations.top_samples import find_top_samples

        find_top_samples(self.rows().batches(ROWS), self.shape[1], 32)


def measure(kind: Kind, repeats: int) -> dict[str, Any]:
    """All figures of one kind."""
    print(f"{kind.name}: {kind.megabytes:.0f} MB", flush=True)

    def away(name: str) -> None:
        shutil.rmtree(kind.store, ignore_errors=True)
        kind.file.unlink(missing_ok=True)
        os.sync()  # else the next fsync pays for what is deleted here
        touch_memory()

    def cold(name: str) -> None:
        forget_cached(kind.store)
        forget_cached(kind.file)
        touch_memory()

    seconds = in_turn({"write": kind.write, "write_memmap": kind.write_memmap}, repeats, away)
    kind.write()
    kind.write_memmap()
    found = kind.rows()[: len(kind.block)]
    if not np.array_equal(found.view(kind.bits), kind.block.view(kind.bits)):
        raise SystemExit(f"{kind.name}: other values came back")
    picks = np.random.default_rng(0).choice(kind.shape[0], min(1024, kind.shape[0]), replace=False)
    reads: dict[str, Callable[[], Any]] = {
        "cold_read": kind.read,
        "cold_read_memmap": kind.read_memmap,
        "rows": partial(kind.rows().rows, picks),
        "columns": partial(kind.rows().columns, np.arange(8)),
        "top_samples": kind.top,
        "devices": kind.on_devices,
    }
    seconds |= in_turn(reads, repeats, cold)
    results = rates(seconds, dict.fromkeys(seconds, kind.megabytes), "mb")
    ratios = {
        name: round(results[name]["mb_per_s"] / results[f"{name}_memmap"]["mb_per_s"], 3)
        for name in ("write", "cold_read")
    }
    ratios["bytes"] = round(disk_bytes(kind.store) / (kind.megabytes * 1e6), 4)
    away("")
    return {
        "shape": kind.shape,
        "dtype": kind.block.dtype.name,
        "density": round(float((kind.block[:512] != 0).mean()), 4),
        "megabytes": round(kind.megabytes, 1),
        "sides": results,
        "ratios": ratios,
    }


def main(arguments: argparse.Namespace) -> None:
    threads = use_threads(arguments.threads)
    here = machine()
    rng = np.random.default_rng(0)
    part = 64 if arguments.megabytes >= 128 else arguments.megabytes // 2
    rows = part * 2**20 // (4 * WIDTH)
    dense = rng.standard_normal((rows, WIDTH), np.float32)
    gemma = sparse(rng, part * 2**20 // (4 * 16384), 16384, 0.046)
    shipped = sparse(rng, part * 2**20 // (4 * 4096), 4096, 0.12)
    blocks = {
        "dense_float32": dense,
        "dense_bfloat16": dense.astype(ml_dtypes.bfloat16),
        "sparse_16k_float32": gemma,
        "sparse_16k_bfloat16": gemma.astype(ml_dtypes.bfloat16),
        "sparse_4k_float32": shipped,
    }
    folder = Path(tempfile.mkdtemp(dir=arguments.disk))
    kinds = {
        name: measure(Kind(folder, name, block, arguments.megabytes), arguments.repeats)
        for name, block in blocks.items()
    }
    shutil.rmtree(folder)
    goals: dict[str, Any] = {}
    for name, kind in kinds.items():
        for goal, wanted in GOALS.items():
            if name.startswith("dense") == (goal != "bytes"):
                got = kind["ratios"][goal]
                met = got <= wanted if goal == "bytes" else got >= wanted
                goals[f"{name} {goal}"] = {"wanted": wanted, "got": got, "met": met}
    save(
        arguments.out,
        {
            "benchmark": "store",
            "machine": here,
            "threads": threads,
            "fsync": True,
            "kinds": kinds,
            "goals": goals,
        },
    )
    print(json.dumps({name: goal["got"] for name, goal in goals.items()}))


if __name__ == "__main__":
    parser = options(__doc__.splitlines()[0], "store")
    parser.add_argument("--megabytes", type=int, default=1024, help="of each kind")
    parser.add_argument("--disk", type=Path, help="folder of the stores; default: a temporary one")
    main(parser.parse_args())
