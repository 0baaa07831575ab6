"""Weights on a mesh: what is split, that nothing changes, and that the host never holds much."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from atlas_jax.models import generate, load_model, points_of, read_arch
from atlas_jax.models.generate import _over_texts
from atlas_jax.models.weights import tensor_shapes
from atlas_jax.parallel import make_mesh
from atlas_jax.steering import steer

# In a process of its own: resident memory beyond what is already on the devices.
MEASURE = """
import gc, json, sys
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 2)
from atlas_jax.models import read_arch
from atlas_jax.models.checkpoint import Checkpoint
from atlas_jax.models.weights import load_decoder
from atlas_jax.parallel import make_mesh

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))

def on_devices():
    shards = [s.data for a in jax.live_arrays() for s in a.addressable_shards]
    return {s.unsafe_buffer_pointer(): s.nbytes for s in shards}

def load(folder):
    arch = read_arch(json.loads((folder / "config.json").read_text()))
    return load_decoder(Checkpoint(folder), arch, "bfloat16", mesh)

mesh = make_mesh(1, 2)
load(Path(sys.argv[1]))
gc.collect()
before, beyond, copy = resident(), [], Checkpoint.copy

def watched(self, name, index, target):
    copy(self, name, index, target)
    beyond.append(resident() - before - sum(on_devices().values()))

Checkpoint.copy = watched
decoder = load(Path(sys.argv[2]))
sizes = on_devices().values()
print(json.dumps({"beyond": max(beyond), "largest": max(sizes), "total": sum(sizes)}))
"""


def write_llama(folder, **sizes):
    """A checkpoint in bfloat16, in files of nine tensors."""
    folder.mkdir()
    config = {"model_type": "llama", "num_attention_heads": 8, "vocab_size": 4096, **sizes}
    (folder / "config.json").write_text(json.dumps(config))
    shapes = tensor_shapes(read_arch(config))
    names = list(shapes)
    where = {name: f"model-{i // 9:03d}.safetensors" for i, name in enumerate(names)}
    for file in sorted(set(where.values())):
        mine = [name for name in names if where[name] == file]
        save_file({n: np.full(shapes[n], 0.01, ml_dtypes.bfloat16) for n in mine}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


@pytest.mark.parametrize("name", ["tiny_llama", "gemma2", "gpt_neox", "gpt2", "phi3"])
@pytest.mark.parametrize("model_axis", [2, 4])
def test_split_weights_give_what_whole_ones_give(pairs, sentences, name, model_axis):
    whole = pairs(name).ours
    split = load_model(pairs(name).folder, mesh=make_mesh(8 // model_axis, model_axis))
    for one, other in zip(jax.tree.leaves(whole.state), jax.tree.leaves(split.state), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    rows = whole.tokenizer.encode_batch(list(sentences[:3]))
    tokens, mask = whole.tokenizer.pad(rows, max(map(len, rows)))
    sites = [f"blocks.1.{point}" for point in points_of(whole.arch)]
    logits, acts = whole(tokens, mask, taps=sites)
    other_logits, others = split(tokens, mask, taps=sites)
    for one, other in [(logits, other_logits), *((acts[s], others[s]) for s in sites)]:
        one, other = np.asarray(one)[mask], np.asarray(other)[mask]
        np.testing.assert_allclose(other, one, atol=1e-5 * np.abs(one).max())


def test_each_device_holds_its_part(pairs):
    def share(model_axis, name="tiny_llama"):
        model = load_model(pairs(name).folder, mesh=make_mesh(8 // model_axis, model_axis))
        state = model.state
        attn, blocks = state["blocks"]["attn"], state["blocks"]
        arrays = {
            "q": attn["q"]["kernel"],
            "k": attn["k"]["kernel"],
            "o": attn["o"]["kernel"],
            "gate": blocks["gate"]["kernel"],
            "down": blocks["down"]["kernel"],
            "norm": blocks["norm_attn"]["weight"],
            "embed": state["embed"],
            "head": state["head"]["kernel"],
        }
        return {
            key: tuple(
                whole // part
                for whole, part in zip(
                    a[...].shape, a[...].addressable_shards[0].data.shape, strict=True
                )
            )
            for key, a in arrays.items()
        }

    vocab = pairs("tiny_llama").ours.arch.vocab_size
    words = 2 if vocab % 2 == 0 else 1
    two = share(2)
    assert two["q"] == two["k"] == two["gate"] == (1, 1, 2)
    assert two["o"] == two["down"] == (1, 2, 1)
    assert two["norm"] == (1, 1) and two["embed"] == (words, 1) and two["head"] == (1, words)
    # 4 heads, but 2 of keys and values: those stay whole rather than be cut.
    four = share(4)
    assert four["q"] == (1, 1, 4) and four["k"] == (1, 1, 1) and four["o"] == (1, 4, 1)
    eight = share(8)
    assert eight["q"] == (1, 1, 1) and eight["gate"] == (1, 1, 8)


def test_a_split_model_generates_the_same_and_is_steered_the_same(pairs, sentences):
    split = load_model(pairs("tiny_llama").folder, mesh=make_mesh(2, 4))
    whole, prompts = pairs("tiny_llama").ours, [sentences[0], sentences[0]]
    vector = np.random.default_rng(0).standard_normal(whole.arch.d_mlp).astype(np.float32)
    edits = [[], [steer("blocks.1.mlp.hook_post", vector, 8.0)]]
    expected = generate(whole, prompts, edits, max_new_tokens=6)
    assert expected[0] != expected[1]  # steering is felt
    assert generate(split, prompts, edits, max_new_tokens=6) == expected
    texts = _over_texts(split, np.zeros((2, 16), np.int32))
    assert texts.sharding.shard_shape(texts.shape) == (1, 16)  # each half generates one
    assert generate(split, prompts[1:], edits[1:], max_new_tokens=6) == expected[1:]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_the_host_holds_one_shard_at_a_time(tmp_path):
    tiny = write_llama(tmp_path / "tiny", hidden_size=64, intermediate_size=64, num_hidden_layers=2)
    big = write_llama(
        tmp_path / "big", hidden_size=1024, intermediate_size=4096, num_hidden_layers=8
    )
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tiny), str(big)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["total"] > 6 * found["largest"] > 6 * 20e6
    # One stacked parameter's shard, and what the allocator keeps of smaller ones.
    assert found["beyond"] < 1.15 * found["largest"] + 8e6, found
