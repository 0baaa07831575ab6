"""One of several processes that record one store together.

python process.py conftest.py folder port process processes
"""

import json
import runpy
import sys

import jax
import numpy as np

from atlas_jax.activations import capture
from atlas_jax.corpus import Texts
from atlas_jax.errors import InputError
from atlas_jax.parallel import make_mesh, start_processes

conftest, folder, port, process, processes = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 2)
start_processes(f"127.0.0.1:{port}", int(processes), int(process))

source = runpy.run_path(conftest)["TableSource"]()
RNG = np.random.default_rng(3)
TEXTS = Texts([" ".join(f"w{i}" for i in RNG.integers(0, 99, n)) for n in RNG.integers(2, 40, 150)])
assert jax.process_count() == int(processes) and len(jax.local_devices()) == 2

source.mesh = make_mesh()
try:
    capture(source, TEXTS, out=folder)
except InputError as error:
    refused = str(error)

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
with open(f"{folder}/seen-{process}.json", "w") as file:
    json.dump({"batches": seen, "refused": refused}, file)
