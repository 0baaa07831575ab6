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
from atlas_jax.corpus import Texts
from atlas_jax.errors import InputError
from atlas_jax.models import generate, load_model
from atlas_jax.parallel import barrier, start_processes
from atlas_jax.steering import steer

HERE = Path(__file__).parent


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_two_processes_record_one_store(source, texts, tiny_llama, tmp_path):
    port = free_port()
    running = [
        subprocess.Popen(
            [
                *(sys.executable, HERE / "process.py", HERE / "conftest.py", tmp_path / "s"),
                *(str(port), str(process), "2", tiny_llama),
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
    # And a model of which each has a half gives what one process with all of it gives.
    vector = np.random.default_rng(5).standard_normal(56).astype(np.float32)
    prompts = ["The grey cat slept", "The grey cat slept", "Two dogs ran along the river"]
    edits = [[], [steer("blocks.1.mlp.hook_post", vector, 8.0)], []]
    model, (site,) = load_model(tiny_llama), ["blocks.1.mlp.hook_post"]
    written = generate(model, prompts, edits, max_new_tokens=6)
    assert written[0] != written[1]
    assert [found["written"] for found in seen] == [written] * 2
    one = capture(model, Texts(prompts * 40), [site], out=tmp_path / "model", rows_per_part=64)
    two = ActivationStore.open(tmp_path / "s" / "model")
    assert one.meta == two.meta and sorted(r["texts"] for r in two.report) == [56, 64]
    np.testing.assert_allclose(two[site][:], one[site][:], atol=1e-5 * np.abs(one[site][:]).max())
    together = ActivationStore.open(tmp_path / "s" / "together")
    for name in source.sites:
        np.testing.assert_array_equal(
            together[name][:], ActivationStore.open(tmp_path / "max")[name][:]
        )


def test_alone_nobody_waits():
    barrier("nothing")
    with pytest.raises(InputError, match="process from 0 to 1, got 2"):
        start_processes("127.0.0.1:1", 2, 2)
