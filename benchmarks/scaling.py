"""Weak and strong scaling: the same work by one process and by two, a core each.

    python benchmarks/scaling.py            writes results/scaling.json
    python benchmarks/scaling.py --small    a sixteenth of the rows, once each; writes nothing

The processes are JAX's own over loopback, as a launcher would start them. Each is pinned to one
core and has one thread in XLA and BLAS, so that two processes are two cores. All are started
beforehand and wait at a pipe; sides take turns, each has run once before the clock starts.

    strong    two processes share the rows of one:      efficiency = t(1, N) / 2 t(2, N)
    weak      two processes have the rows of one each:  efficiency = t(1, N) / t(2, 2 N)
    beside    two processes that know nothing of each other do the work of one each: what the
              cores lose to each other by themselves, t(1, N) / t(beside, N)

A small model with random weights, and random rows: speed does not depend on what they say.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from measure import in_turn, machine, options, rates, save

TASKS = {"capture": 512, "moments": 16_384, "procrustes and ridge": 8192}
"""Rows of one process."""
DS, DC = 1024, 2048
MODEL = {
    "model_type": "llama",
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
}
SIDES = ("one", "beside", "strong", "weak")
ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(Path(__file__).parents[1]),
}


class Words:
    """A tokenizer of words that are their own ids."""

    pad_id = 0

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [[int(word) for word in text.split()] for text in texts]


class Work:
    """What a process does; inputs are made when first asked for, and kept for one task."""

    def __init__(self) -> None:
        self.made: dict[Any, Any] = {}

    def run(self, task: str, rows: int, out: str) -> None:
        self.made = {key: kept for key, kept in self.made.items() if key[0] == task}
        if (task, rows) not in self.made:
            self.made[task, rows] = self.make(task, rows)
        inputs = self.made[task, rows]
        if task == "capture":
            from atlas_jax.activations import capture

            model, texts = inputs
            part = min(64, rows // 4)
            capture(model, texts, ("blocks.4.mlp.hook_post",), out=out, rows_per_part=part)
            return
        from atlas_jax.parallel import make_mesh
        from atlas_jax.translate import fit

        methods: tuple[str, ...] = ("covariance",) if task == "moments" else ("procrustes", "ridge")
        subject, atlas = inputs
        fit(subject, atlas, methods, mesh=make_mesh(), batch_rows=2048)

    def make(self, task: str, rows: int) -> tuple[Any, Any]:
        import numpy as np

        rng = np.random.default_rng(0)
        if task != "capture":
            shape = (rows, DS), (rows, DC)
            return tuple(rng.standard_normal(s, np.float32) for s in shape)  # type: ignore[return-value]
        from flax import nnx
        from forward import random_decoder

        from atlas_jax.corpus import Texts
        from atlas_jax.models import LanguageModel, read_arch

        decoder = nnx.merge(*random_decoder(read_arch(MODEL), "float32"))
        words = rng.integers(1, MODEL["vocab_size"], (rows, 32))
        texts = Texts([" ".join(map(str, row[: 24 + i % 9])) for i, row in enumerate(words)])
        tokenizer: Any = Words()
        return LanguageModel(decoder, tokenizer, "random", "random"), texts


def serve(core: int) -> None:
    """A process: does what comes down the pipe, one line each."""
    os.sched_setaffinity(0, {core})
    from atlas_jax.parallel import start_processes

    start_processes()
    work = Work()
    for line in sys.stdin:
        task, rows, out = line.rstrip("\n").split("\t")
        work.run(task, int(rows), out)
        print("done", flush=True)


class Team:
    """Processes that work together.

    Args:
        cores: one for each.
        together: whether they are one program of JAX's.
    """

    def __init__(self, cores: list[int], together: bool) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            at = f"127.0.0.1:{free.getsockname()[1]}"
        self.together, self.processes = together, []
        for i, core in enumerate(cores):
            shared = {"ATLAS_JAX_DISTRIBUTED": "0"}
            if together:
                shared = {"JAX_NUM_PROCESSES": str(len(cores)), "JAX_PROCESS_ID": str(i)}
                shared["JAX_COORDINATOR_ADDRESS"] = at
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, __file__, "--serve", str(core)],
                    env={**os.environ, **ONE_THREAD, **shared},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )

    def run(self, task: str, rows: int, out: str) -> None:
        for i, process in enumerate(self.processes):
            place = out if self.together else f"{out}-{i}"
            process.stdin.write(f"{task}\t{rows}\t{place}\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        for process in self.processes:
            lines = iter(process.stdout.readline, "")  # type: ignore[union-attr]
            if "done\n" not in lines:  # what connects the processes writes lines of its own
                raise SystemExit(f"A process has ended while it did: {task}, {rows} rows.")

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def efficiencies(seconds: Mapping[str, list[float]]) -> dict[str, dict[str, float]]:
    """Of each side against `one`: median and range over the rounds."""
    found = {}
    for side in SIDES[1:]:
        share = 0.5 if side == "strong" else 1.0
        rounds = [share * a / b for a, b in zip(seconds["one"], seconds[side], strict=True)]
        median = share * statistics.median(seconds["one"]) / statistics.median(seconds[side])
        found[side] = {"median": median, "least": min(rounds), "most": max(rounds)}
    return {side: {k: round(v, 4) for k, v in by.items()} for side, by in found.items()}


def measure(repeats: int, shrink: int) -> list[dict[str, Any]]:
    """All tasks."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit("Expected two cores to run on, got one.")
    pair = Team(cores, together=True)
    teams = {
        "one": Team(cores[:1], together=False),
        "beside": Team(cores, together=False),
        "strong": pair,
        "weak": pair,
    }
    folder = Path(tempfile.mkdtemp())
    found = []
    try:
        for task, all_rows in TASKS.items():
            rows = {side: all_rows // shrink for side in SIDES}
            rows["weak"] *= 2

            def side(name: str, task: str = task, rows: dict = rows) -> Callable[[], None]:
                return lambda: teams[name].run(task, rows[name], str(folder / "out"))

            def clear(name: str) -> None:
                for old in folder.iterdir():
                    shutil.rmtree(old)

            sides = {name: side(name) for name in SIDES}
            for name, run in sides.items():
                print(f"{task}, {rows[name]} rows, {name}", flush=True)
                clear(name)
                run()
            seconds = in_turn(sides, repeats, clear)
            work = {name: rows[name] * (2 if name == "beside" else 1) for name in SIDES}
            found.append(
                {
                    "task": task,
                    "rows": rows,
                    "sides": rates(seconds, work, "rows"),
                    "efficiency": efficiencies(seconds),
                }
            )
            print(found[-1]["efficiency"], flush=True)
    finally:
        for team in teams.values():
            team.end()
        shutil.rmtree(folder)
    return found


def main(arguments: argparse.Namespace) -> None:
    tasks = measure(1 if arguments.small else arguments.repeats, 16 if arguments.small else 1)
    result = {
        "benchmark": "scaling",
        "machine": machine(),
        "shape": {"subject": DS, "atlas": DC, "model": MODEL},
        "tasks": tasks,
    }
    if not arguments.small:
        save(arguments.out, result)


if __name__ == "__main__":
    parser = options(__doc__.splitlines()[0], "scaling")
    parser.add_argument("--small", action="store_true", help="few rows, once; writes nothing")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is None:
        main(given)
    else:
        serve(given.serve)
