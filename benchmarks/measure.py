"""What the benchmarks share: the machine, runs in turn, and the file of results.

Run them on a machine that does nothing else: the threads of torch spin while they wait for each
other, and lose a lot where another process holds one of their cores. The load is recorded.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def options(description: str, results: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repeats", type=int, default=5, help="of each side, in turn")
    parser.add_argument("--threads", type=int, default=0, help="of both sides; 0: all cores")
    parser.add_argument("--out", type=Path, default=RESULTS / f"{results}.json")
    return parser


def use_threads(threads: int) -> int:
    """Limits this process to some cores; to be called before JAX and torch are imported."""
    cores = sorted(os.sched_getaffinity(0))
    if threads:
        os.sched_setaffinity(0, cores[:threads])
        cores = cores[:threads]
    return len(cores)


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    import jax

    packages = {}
    for name in ("jax", "jaxlib", "torch", "transformers", "numpy"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": [round(x, 2) for x in os.getloadavg()],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "devices": [device.device_kind for device in jax.devices()],
        "packages": packages,
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def in_transformers(folder: Path) -> Any:
    """The transformers model of a checkpoint folder, in float32."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    tensors: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    missing, extra = model.load_state_dict(tensors, strict=False)
    if extra or set(missing) - {"lm_head.weight"}:
        raise SystemExit(f"{folder} is not a model of transformers: {missing} {extra}")
    model.tie_weights()
    return model.eval()


def in_turn(
    sides: Mapping[str, Callable[[], Any]],
    repeats: int,
    prepare: Callable[[str], Any] = lambda name: None,
) -> dict[str, list[float]]:
    """Seconds of each side, run one after the other again and again; each has run once before.

    Args:
        sides: what to run, by name.
        repeats: how often each.
        prepare: called with the name before each run, off the clock.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats):
        # Forwards and backwards, so that no side always follows the same one.
        for name in list(sides) if repeat % 2 == 0 else list(sides)[::-1]:
            prepare(name)
            start = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - start)
            print(f"  {name}: {seconds[name][-1]:.2f} s", flush=True)
    return seconds


def rates(
    seconds: Mapping[str, list[float]], work: Mapping[str, float], unit: str = "tokens"
) -> dict[str, Any]:
    """For each side its seconds, their median, and how much work that is in a second."""
    return {
        name: {
            "seconds": [round(t, 4) for t in times],
            "median_s": round(statistics.median(times), 4),
            f"{unit}_per_s": round(work[name] / statistics.median(times), 2),
        }
        for name, times in seconds.items()
    }


def forget_cached(place: Path) -> None:
    """Takes files out of the system's cache, so that the next read comes from the disk."""
    for path in [place, *place.rglob("*")]:
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def disk_bytes(place: Path) -> int:
    """Size of a file, or of all files of a folder."""
    return sum(path.stat().st_size for path in [place, *place.rglob("*")] if path.is_file())


def save(path: Path, result: Mapping[str, Any]) -> None:
    """Writes the results and says where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path}")


def gpu_peak(size: int = 8192, repeats: int = 20) -> float:
    """FLOP/s of the fastest bfloat16 matrix product that this device does."""
    import jax
    import jax.numpy as jnp

    a = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    product = jax.jit(lambda x, y: x @ y)
    product(a, a).block_until_ready()
    best = float("inf")
    for _ in range(3):
        start, out = time.perf_counter(), a
        for _ in range(repeats):
            out = product(out, a)
        out.block_until_ready()
        best = min(best, (time.perf_counter() - start) / repeats)
    return 2 * size**3 / best
