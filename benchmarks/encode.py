"""Encoding and pooling at once, beside encoding everything first and pooling then.

Rows per second and peak memory, for autoencoders of 16 thousand to a million features. Each side
runs in a process of its own for its memory: the peak of the process, less what it held before.
The naive side needs 2 B T F floats; where that is more than `--limit` bytes it is left out. The
goal is the bound that `atlas_jax.atlas.pooled` states, and the (B, F) of the result beside it.

    python benchmarks/encode.py --size small
    python benchmarks/encode.py --size full
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import measure

# Name: features, width of the site, architecture, k, texts and tokens of a batch.
CASES = {
    "small": {
        "jumprelu 4k": (4096, 256, "jumprelu", None, 16, 64),
        "jumprelu 16k": (16_384, 256, "jumprelu", None, 16, 64),
        "topk 16k": (16_384, 256, "topk", 32, 16, 64),
    },
    "full": {
        "jumprelu 16k": (16_384, 2304, "jumprelu", None, 32, 64),
        "jumprelu 65k": (65_536, 2304, "jumprelu", None, 32, 64),
        "jumprelu 1M": (1_048_576, 256, "jumprelu", None, 16, 32),
        "topk 16k": (16_384, 2304, "topk", 64, 16, 64),
        "topk 65k": (65_536, 2304, "topk", 64, 8, 64),
        "topk 1M": (1_048_576, 256, "topk", 64, 4, 32),
    },
}


def programs(case):
    """The two sides as compiled programs, and their arguments."""
    import jax
    import jax.numpy as jnp

    from atlas_jax.activations.pool import pool_max
    from atlas_jax.atlas.pooled import encode_pooled
    from atlas_jax.atlas.sae import SAE, encode

    features, d, architecture, k, b, t = case

    @jax.jit
    def make(key):
        keys = jax.random.split(key, 3)
        w_enc = jax.random.normal(keys[0], (d, features)) / d**0.5
        theta = jnp.full(features, 1.5) if architecture == "jumprelu" else None
        # The decoder is of no use here, and at a million features it would double the memory.
        decoder = jnp.broadcast_to(jnp.zeros((), jnp.float32), (features, d))
        sae = SAE(w_enc, jnp.zeros(features), decoder[:, :0], jnp.zeros(d), theta, architecture, k)
        return sae, jax.random.normal(keys[1], (b, t, d))

    def naive(sae, x, mask):
        return pool_max(jnp.where(mask[:, :, None], encode(sae, x), 0.0), mask)

    def pooled(sae, x, mask):
        return encode_pooled(sae, x, mask, mask, pool_max)

    sae, x = jax.block_until_ready(make(jax.random.key(0)))
    sides = {"naive": jax.jit(naive), "pooled": jax.jit(pooled)}
    return sides, (sae, x, jnp.ones((b, t), bool))


def peak(size: str, name: str, side: str) -> None:
    """Prints the bytes that one side needed beyond its arguments."""
    sides, arguments = programs(CASES[size][name])
    compiled = sides[side].lower(*arguments).compile()
    # Making the arguments and compiling needed memory too: forget the highest mark so far.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    compiled(*arguments).block_until_ready()
    print(json.dumps({"bytes": _status("VmHWM") - before}))


def _status(key: str) -> int:
    """A line of Linux's account of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def main() -> None:
    parser = measure.options(__doc__ or "", "encode")
    parser.add_argument("--size", choices=CASES, default="full")
    parser.set_defaults(repeats=3)
    parser.add_argument("--limit", type=float, default=4e9, help="bytes the naive side may need")
    parser.add_argument("--peak", nargs=2, metavar=("CASE", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    cores = measure.use_threads(options.threads)
    if options.peak:
        peak(options.size, *options.peak)
        return
    from atlas_jax.atlas.pooled import BLOCK_BYTES

    cases = {}
    for name, case in CASES[options.size].items():
        features, d, _, k, b, t = case
        print(f"{name}: {b} texts of {t} tokens", flush=True)
        sides, arguments = programs(case)
        if 8 * b * t * features > options.limit:
            sides.pop("naive")
        temporary = {}
        for side, program in sides.items():
            compiled = program.lower(*arguments).compile()
            temporary[side] = compiled.memory_analysis().temp_size_in_bytes
            compiled(*arguments).block_until_ready()
            sides[side] = compiled
        run = {s: lambda c=c, a=arguments: c(*a).block_until_ready() for s, c in sides.items()}
        seconds = measure.in_turn(run, options.repeats)
        rates: dict[str, Any] = measure.rates(seconds, {side: b * t for side in run})
        del arguments, sides, run
        for side in rates:
            command = [sys.executable, __file__, "--size", options.size, "--peak", name, side]
            command += ["--threads", str(options.threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            measured = json.loads(done.stdout.splitlines()[-1])["bytes"]
            rates[side] |= {
                "rows_per_s": round(b / rates[side]["median_s"], 2),
                "temporary_mb": round(temporary[side] / 2**20, 1),
                "peak_mb": round(measured / 2**20, 1),
            }
            print(f"  {side}: {rates[side]}", flush=True)
        bound = (4 * BLOCK_BYTES + 16 * b * t * (d + 2 * (k or 0)) + 4 * b * features) / 2**20
        met = rates["pooled"]["peak_mb"] <= bound
        cases[name] = {"case": case, **rates, "goals": {"peak_mb": {"at_most": round(bound, 1)}}}
        cases[name]["goals"]["peak_mb"]["met"] = met
    result = {"machine": measure.machine(), "cores": cores, "size": options.size, "cases": cases}
    measure.save(options.out, result)


if __name__ == "__main__":
    main()
