"""One of several processes that record one store together.

python process.py conftest.py folder port process processes model

Then also with models that lie over the devices of all processes.
"""

import json
import runpy
import sys

import jax
import numpy as np

from atlas_jax.activations import capture
from atlas_jax.corpus import Texts
from atlas_jax.models import generate, load_model
from atlas_jax.parallel import make_mesh, start_processes
from atlas_jax.steering import steer

conftest, folder, port, process, processes, checkpoint = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 2)
start_processes(f"127.0.0.1:{port}", int(processes), int(process))

source = runpy.run_path(conftest)["TableSource"]()
RNG = np.random.default_rng(3)
TEXTS = Texts([" ".join(f"w{i}" for i in RNG.integers(0, 99, n)) for n in RNG.integers(2, 40, 150)])
PROMPTS = ["The grey cat slept", "The grey cat slept", "Two dogs ran along the river"]


VECTOR = np.random.default_rng(5).standard_normal(56).astype(np.float32)
EDITS = [[], [steer("blocks.1.mlp.hook_post", VECTOR, 8.0)], []]

assert jax.process_count() == int(processes) and len(jax.local_devices()) == 2

source.mesh = make_mesh(local=True)
seen = {}
for pool in ("max", "tokens"):
    source.shapes.clear()
    store = capture(
        source,
        TEXTS,
        out=f"{folder}/{pool}",
        pool=pool,
        rows_per_part=32 if pool == "max" else 700,
        batch_tokens=256,
    )
    seen[pool] = len(source.shapes)
    assert len(store) == 150  # whole, in every process

model = load_model(checkpoint, mesh=make_mesh(model=4))  # two devices of each process
assert len(model.state["blocks"]["gate"]["kernel"][...].addressable_shards) == 2
written = generate(model, PROMPTS, EDITS, max_new_tokens=6)
sites = ["blocks.1.mlp.hook_post"]
capture(model, Texts(PROMPTS * 40), sites, out=f"{folder}/model", rows_per_part=64)
source.mesh = make_mesh(2, 2)  # a half of each batch, on each process
capture(source, TEXTS, out=f"{folder}/together", rows_per_part=32, batch_tokens=256)
with open(f"{folder}/seen-{process}.json", "w") as file:
    json.dump({"batches": seen, "written": written}, file)
