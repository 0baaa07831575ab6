"""Every quantisation that the gguf package can dequantise, precision, shards and split files."""

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf.quants import _type_traits

from atlas_jax.errors import InputError
from atlas_jax.models import load_model
from atlas_jax.models.gguf import convert_gguf
from atlas_jax.models.gguf import tensors as tensors_module

Type = gguf.GGMLQuantizationType
# Half a step, as a share of the largest weight of a block; types whose step depends on the values
# beside it are given that of the coarsest.
HALF_STEPS = {
    Type.F32: 0.0,
    Type.F16: 2.0**-11,
    Type.BF16: 2.0**-8,
    Type.Q8_0: 1 / 127,
    Type.Q5_0: 1 / 16,
    Type.Q5_1: 1 / 31,
    Type.Q4_0: 1 / 8,
    Type.Q4_1: 1 / 15,
    Type.MXFP4: 1 / 2,
    Type.TQ1_0: 1 / 2,
    Type.TQ2_0: 1 / 2,
}
ONLY_READ = sorted(set(_type_traits) - set(HALF_STEPS))
UNREADABLE = (Type.Q8_1, Type.Q8_K, Type.I8, Type.I32, Type.F64)
NAME = "model.layers.0.mlp.down_proj.weight"
ROWS, COLUMNS = 32, 256


@pytest.fixture
def folder(source):
    """A checkpoint whose down projection has rows as long as the longest block."""
    mlp = {"gate": [COLUMNS, ROWS], "up": [COLUMNS, ROWS], "down": [ROWS, COLUMNS]}
    return source(
        "llama",
        {
            "config": {"intermediate_size": COLUMNS, "num_hidden_layers": 1},
            "tensors": {f"model.layers.{{}}.mlp.{p}_proj.weight": s for p, s in mlp.items()},
        },
    )


def convert(tools, folder, tmp_path, data, kind):
    raw = {"blk.0.ffn_down.weight": (data, kind)}
    path = tools.write(folder, tmp_path / "tiny.gguf", raw=raw)
    return tools.read_back(convert_gguf(path, tmp_path / "out"))[NAME]


@pytest.mark.parametrize("kind", HALF_STEPS, ids=lambda kind: kind.name)
def test_what_is_quantised_comes_back_within_a_step(kind, folder, tools, tmp_path):
    values = tools.read_back(folder)[NAME]
    got = convert(tools, folder, tmp_path, gguf.quantize(values, kind), kind).astype(np.float32)
    assert np.abs(got - values).max() <= HALF_STEPS[kind] * np.abs(values).max()
    assert got.shape == values.shape and (got.any(axis=1)).all()


@pytest.mark.parametrize("kind", ONLY_READ, ids=lambda kind: kind.name)
def test_what_can_only_be_read_is_as_the_package_reads_it(kind, folder, tools, tmp_path):
    size, length = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(int(kind))
    blocks = rng.integers(0, 256, (2000, length), np.uint8)
    with np.errstate(all="ignore"):
        read = gguf.dequantize(blocks, kind)
    # Random bytes make random scales; blocks of NaN and of 1e30 are no weights.
    blocks = blocks[np.isfinite(read).all(1) & (np.abs(read).max(1) < 1e4)]
    data = blocks[: ROWS * COLUMNS // size].reshape(ROWS, -1)
    got = convert(tools, folder, tmp_path, data, kind)
    assert got.shape == (ROWS, COLUMNS) and got.dtype == np.float32
    assert len(np.unique(got)) > 100
    np.testing.assert_array_equal(got, gguf.dequantize(data, kind))


@pytest.mark.parametrize("kind", UNREADABLE, ids=lambda kind: kind.name)
def test_what_cannot_be_read_is_refused_by_name(kind, folder, tools, tmp_path):
    size, length = gguf.GGML_QUANT_SIZES[kind]
    data = np.zeros((ROWS, COLUMNS // size * length), np.uint8)
    with pytest.raises(InputError, match=rf"ffn_down\.weight.*{kind.name}"):
        convert(tools, folder, tmp_path, data, kind)


@pytest.mark.parametrize(
    ("kind", "dtype"), [(Type.F16, np.float16), (Type.BF16, ml_dtypes.bfloat16)]
)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma"])
def test_sixteen_bits_stay_sixteen_where_nothing_is_computed(
    family, kind, dtype, source, tools, tmp_path
):
    folder = source(family)
    path = tools.write(folder, tmp_path / "tiny.gguf", kind=kind)
    out = convert_gguf(path, tmp_path / "out")
    expected, back = tools.read_back(folder), tools.read_back(out)
    for name, values in expected.items():
        half = values.ndim == 2 and family != "gemma"
        assert back[name].dtype == (dtype if half else np.float32), name
        if values.ndim == 2:
            np.testing.assert_array_equal(
                back[name].astype(np.float32), values.astype(dtype).astype(np.float32), name
            )
    assert load_model(out).arch == load_model(folder).arch


def test_shards_hold_each_tensor_once(source, tools, tmp_path, monkeypatch):
    folder = source("llama")
    largest = max(values.nbytes for values in tools.read_back(folder).values())
    monkeypatch.setattr(tensors_module, "_SHARD_BYTES", largest)
    out = convert_gguf(tools.write(folder, tmp_path / "tiny.gguf"), tmp_path / "out")
    shards = sorted(out.glob("*.safetensors"))
    assert len(shards) > 4
    assert all(path.stat().st_size < largest + 8192 for path in shards)
    for name, values in tools.read_back(folder).items():
        np.testing.assert_array_equal(tools.read_back(out)[name], values)


def test_the_parts_of_a_split_file_are_read_together(source, tools, tmp_path):
    folder = source("llama")
    tools.write(folder, tmp_path / "tiny.gguf", split=9)
    parts = sorted(tmp_path.glob("tiny-*.gguf"))
    assert len(parts) == 4 and parts[0].name == "tiny-00001-of-00004.gguf"
    with pytest.raises(InputError, match="Give the first"):
        convert_gguf(parts[1], tmp_path / "out")
    back = tools.read_back(convert_gguf(parts[0], tmp_path / "out"))
    for name, values in tools.read_back(folder).items():
        np.testing.assert_array_equal(back[name], values, err_msg=name)
    parts[2].unlink()
    with pytest.raises(InputError, match=r"tiny-00003-of-00004\.gguf"):
        convert_gguf(parts[0], tmp_path / "again")
