"""Two processes that each read their half of the rows give what one gives."""

import socket
import subprocess
import sys

import numpy as np

from atlas_jax.translate import METHODS, fit

RNG = np.random.default_rng(6)
ATLAS = np.maximum(RNG.standard_normal((330, 20)) - 0.5, 0).astype(np.float32)
SUBJECT = (ATLAS @ RNG.standard_normal((20, 12)) + RNG.standard_normal((330, 12))).astype("f4")

CODE = """
import sys
import jax, numpy as np
process, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"localhost:{port}", 2, process)
from atlas_jax.parallel import make_mesh
from atlas_jax.translate import METHODS, fit

class Rows:
    def __init__(self, array):
        self.array, self.shape, self.seen = array, array.shape, 0
    meta = {"texts": "t"}
    def __getitem__(self, rows):
        part = self.array[rows]
        self.seen += len(part) if isinstance(rows, slice) else 0
        return part

sides = [np.load(f"{folder}/{name}.npy") for name in ("subject", "atlas")]
subject, atlas = map(Rows, sides)
methods = [name for name in METHODS if name != "procrustes_exact"]
maps = fit(subject, atlas, methods, mesh=make_mesh(2, 2), batch_rows=100)
assert subject.seen < 200, subject.seen  # its own rows only
for name, translation in maps.items():
    np.save(f"{folder}/{name}-{process}.npy", translation.matrix)
"""


def test_two_processes_equal_one(tmp_path):
    np.save(tmp_path / "subject.npy", SUBJECT)
    np.save(tmp_path / "atlas.npy", ATLAS)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, str(i), str(port), str(tmp_path)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    for process in running:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors[-3000:]
    methods = [name for name in METHODS if name != "procrustes_exact"]  # ends at no fixed point
    for name, translation in fit(SUBJECT, ATLAS, methods).items():
        scale = np.abs(translation.matrix).max()
        found = [np.load(tmp_path / f"{name}-{i}.npy") for i in range(2)]
        np.testing.assert_array_equal(found[0], found[1])
        np.testing.assert_allclose(found[0], translation.matrix, atol=3e-5 * scale)
