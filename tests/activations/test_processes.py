"""Two processes, each with parts of its own, leave what one leaves."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from atlas_jax.activations import ActivationStore, capture
from atlas_jax.errors import InputError
from atlas_jax.parallel import barrier, start_processes

HERE = Path(__file__).parent


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_two_processes_record_one_store(source, texts, tmp_path):
    port = free_port()
    running = [
        subprocess.Popen(
            [
                *(sys.executable, HERE / "process.py", HERE / "conftest.py", tmp_path / "s"),
                *(str(port), str(process), "2"),
            ],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    for process in running:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    seen = [json.loads((tmp_path / "s" / f"seen-{i}.json").read_text()) for i in range(2)]
    for pool, size in (("max", 32), ("tokens", 700)):
        source.shapes.clear()
        settings = {"pool": pool, "rows_per_part": size, "batch_tokens": 256}
        one = capture(source, texts, out=tmp_path / pool, **settings)
        two = ActivationStore.open(tmp_path / "s" / pool)
        assert one.meta == two.meta and len(two.report) == 2
        for site in source.sites:
            np.testing.assert_array_equal(one[site][:], two[site][:])
        if pool == "tokens":
            np.testing.assert_array_equal(one[site].ids, two[site].ids)
        # Both worked, and nothing was computed by both; each also asked for the shapes.
        batches = [found["batches"][pool] for found in seen]
        assert min(batches) > 2 and sum(batches) == len(source.shapes) + 1
        assert sum(report["tokens"] for report in two.report) >= one.meta["tokens"]
    for found in seen:
        assert "load it with mesh=make_mesh(local=True)" in found["refused"]


def test_alone_nobody_waits():
    barrier("nothing")
    with pytest.raises(InputError, match="process from 0 to 1, got 2"):
        start_processes("127.0.0.1:1", 2, 2)
