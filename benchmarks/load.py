"""Loading and compiling: peak host memory, seconds to load, seconds to compile.

    python benchmarks/load.py                  half of an 8B model's layers, 8 devices
    python benchmarks/load.py --layers 2       a quick look

Writes a checkpoint of Llama 3.1 8B's width in bfloat16 (files of at most 5 GB, as the hub has them)
and loads it in processes of their own: with this project, split over the devices, and with
`from_pretrained` of transformers. Devices are the host's own memory here, so what they hold is
taken off: `beyond_gb` is the peak of resident memory less what the devices hold by then, and
`largest_shard_gb` the largest piece that one device holds of one parameter. transformers on a CPU
maps its files and copies nothing, so for it `beyond_gb` is less than zero. Compiling is timed
for a capture of five layers at one length, from shapes alone, for three sizes of model.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from measure import machine, options, save

GOAL_MEMORY, GOAL_COMPILE = 1.15, 20.0
LLAMA_8B = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rope_theta": 500000.0,
    "num_hidden_layers": 32,
}
SMOLLM2 = LLAMA_8B | {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "num_hidden_layers": 30,
}
LLAMA_1B = LLAMA_8B | {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "head_dim": 64,
    "num_hidden_layers": 16,
}
FILE_BYTES = 5 << 30

# Both watch resident memory from a thread; a page that is mapped from a file counts while it is.
WATCH = """
import json, sys, threading, time
from pathlib import Path
folder, devices = Path(sys.argv[1]), int(sys.argv[2])
def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
"""
OURS = (
    WATCH
    + """
import jax
jax.config.update("jax_num_cpu_devices", devices)
from atlas_jax.models import read_arch
from atlas_jax.models.checkpoint import Checkpoint
from atlas_jax.models.weights import load_decoder
from atlas_jax.parallel import make_mesh
arch = read_arch(json.loads((folder / "config.json").read_text()))
def held():
    shards = [s.data for a in jax.live_arrays() for s in a.addressable_shards]
    return {s.unsafe_buffer_pointer(): s.nbytes for s in shards}
mesh = make_mesh(1, devices)
before, beyond, copy = resident(), [0], Checkpoint.copy
def watched(self, name, index, target):
    copy(self, name, index, target)
    beyond.append(resident() - before - sum(held().values()))
Checkpoint.copy = watched
start = time.perf_counter()
decoder = load_decoder(Checkpoint(folder), arch, "bfloat16", mesh)
seconds = time.perf_counter() - start
sizes = held().values()
print(json.dumps({"seconds": seconds, "beyond": max(beyond), "weights": sum(sizes),
                  "largest": max(sizes)}))
"""
)
THEIRS = (
    WATCH
    + """
import torch
from transformers import AutoModelForCausalLM
before, peak, on = resident(), [0], [True]
def watch():
    while on[0]:
        peak.append(resident())
        time.sleep(0.01)
thread = threading.Thread(target=watch)
thread.start()
start = time.perf_counter()
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
seconds = time.perf_counter() - start
on[0] = False
thread.join()
sizes = [p.numel() * p.element_size() for p in model.parameters()]
print(json.dumps({"seconds": seconds, "beyond": max(peak) - before - sum(sizes),
                  "weights": sum(sizes), "largest": max(sizes)}))
"""
)


def write_checkpoint(folder: Path, config: dict[str, Any]) -> None:
    """Weights in bfloat16, one file after another; their values do not matter."""
    from safetensors.numpy import save_file

    from atlas_jax.models import read_arch
    from atlas_jax.models.weights import tensor_shapes

    (folder / "config.json").write_text(json.dumps(config))
    draws = np.random.default_rng(0).normal(0, 0.02, 1 << 20).astype(ml_dtypes.bfloat16)
    tensors: dict[str, np.ndarray] = {}
    where: dict[str, str] = {}

    def flush() -> None:
        file = f"model-{len(set(where.values())):05d}.safetensors"
        save_file(tensors, folder / file, {"format": "pt"})
        where.update(dict.fromkeys(tensors, file))
        tensors.clear()

    for name, shape in tensor_shapes(read_arch(config)).items():
        tensors[name] = np.resize(draws, shape)
        if sum(array.nbytes for array in tensors.values()) > FILE_BYTES:
            flush()
    flush()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": where})
    )


def load(script: str, folder: Path, devices: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(devices)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    return {
        "devices": devices,
        "seconds": round(found["seconds"], 1),
        "weights_gb": round(found["weights"] / 2**30, 3),
        "largest_shard_gb": round(found["largest"] / 2**30, 3),
        "beyond_gb": round(found["beyond"] / 2**30, 3),
        "beyond_over_largest_shard": round(found["beyond"] / found["largest"], 3),
    }


def compile_times() -> dict[str, Any]:
    """Seconds from shapes to an executable, the persistent cache unused."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from atlas_jax.activations.pool import POOLS
    from atlas_jax.models import parse_site, read_arch
    from atlas_jax.models.decoder import Decoder
    from atlas_jax.models.language_model import _read

    jax.config.update("jax_enable_compilation_cache", False)
    found = {}
    for name, config in (("SmolLM2 135M", SMOLLM2), ("1B", LLAMA_1B), ("8B", LLAMA_8B)):
        arch = read_arch(config)
        decoder = nnx.eval_shape(lambda arch=arch: Decoder(arch, jnp.dtype("bfloat16")))
        graph, state = nnx.split(decoder)
        layers = [round(i * (arch.n_layers - 1) / 5) for i in range(1, 6)]
        sites = tuple(parse_site(f"blocks.{i}.mlp.hook_post", arch) for i in layers)
        shapes = jax.ShapeDtypeStruct((8, 64), jnp.int32), jax.ShapeDtypeStruct((8, 64), bool)
        start = time.perf_counter()
        _read.lower(graph, state, *shapes, sites, POOLS["max"]).compile()
        found[name] = {"layers": arch.n_layers, "seconds": round(time.perf_counter() - start, 2)}
        print(name, found[name], flush=True)
    return found


def main(arguments: argparse.Namespace) -> None:
    here = machine()
    compiling = compile_times()
    folder = Path(tempfile.mkdtemp(dir=arguments.scratch))
    try:
        write_checkpoint(folder, LLAMA_8B | {"num_hidden_layers": arguments.layers})
        sides = {}
        for name, script, devices in (
            ("atlas_jax", OURS, arguments.devices),
            ("atlas_jax, one device", OURS, 1),
            ("transformers", THEIRS, 1),
        ):
            sides[name] = load(script, folder, devices)
            print(name, sides[name], flush=True)
    finally:
        shutil.rmtree(folder)
    ratios = [side["beyond_over_largest_shard"] for n, side in sides.items() if n != "transformers"]
    slowest = max(entry["seconds"] for entry in compiling.values())
    save(
        arguments.out,
        {
            "benchmark": "load",
            "machine": here,
            "shape": LLAMA_8B | {"num_hidden_layers": arguments.layers},
            "dtype": "bfloat16",
            "sides": sides,
            "compile": compiling,
            "goals": {
                "host_memory": {"wanted": GOAL_MEMORY, "met": max(ratios) <= GOAL_MEMORY},
                "compile_s": {"wanted": GOAL_COMPILE, "met": slowest <= GOAL_COMPILE},
            },
        },
    )


if __name__ == "__main__":
    parser = options(__doc__.splitlines()[0], "load")
    parser.add_argument("--layers", type=int, default=16, help="of the 32 that the model has")
    parser.add_argument("--devices", type=int, default=8, help="that the weights are split over")
    parser.add_argument("--scratch", type=Path, default=None, help="where the checkpoint goes")
    main(parser.parse_args())
