"""Files of tensors: safetensors, torch, npz, npy and GGUF, whatever their headers claim."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from atlas_jax.atlas.formats.files import read_tensors as read_weights
from atlas_jax.errors import InputError
from atlas_jax.files import read_tensors, write_tensors
from atlas_jax.models.checkpoint import Checkpoint
from atlas_jax.models.gguf.header import Header
from atlas_jax.models.torch_file import TorchFile
from atlas_jax.outside import read_npy, refusing

from .mutations import HUGE, NAMES, cases, misled, refused, spoiled, wrong

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float16)}
SAFE = save(ARRAYS, {"format": "pt"})
SLACK = 4 << 20


def packed(header: bytes, data: bytes = b"\0" * 32, size: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if size is None else size) + header + data


def _npz(**how) -> bytes:
    out = io.BytesIO()
    np.savez(out, **{**ARRAYS, **how})
    return out.getvalue()


def _torch(value, old: bool = False) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=not old)
    return out.getvalue()


def _gguf(folder: Path) -> bytes:
    path = folder / "valid.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "ü"])
    writer.add_array("tokenizer.ggml.scores", [0.5, 1.5, 2.5])
    writer.add_tensor("token_embd.weight", np.ones((3, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


NPZ = _npz()
TORCH = _torch({name: torch.tensor(value) for name, value in ARRAYS.items()})
TORCH_OLD = _torch({name: torch.tensor(value) for name, value in ARRAYS.items()}, old=True)
NPY = NPZ[NPZ.index(b"\x93NUMPY") :][: 128 + 24]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def header_file(folder):
    return _gguf(folder)


def read_whole(path: Path) -> None:
    """A checkpoint of one file, all of it."""
    checkpoint = Checkpoint(path.parent)
    for name, shape in checkpoint.shapes.items():
        taken = int(np.prod(shape, dtype=object))
        assert taken <= 4 * path.stat().st_size
        index = tuple(slice(0, n) for n in shape)
        if taken:
            checkpoint.where[name].read(name, index)
    checkpoint.fingerprint()


def place(folder: Path, name: str, content: bytes) -> Path:
    """The only file of a folder of its own."""
    inner = folder / name.replace(".", "_")
    inner.mkdir(exist_ok=True)
    path = inner / name
    path.write_bytes(content)
    return path


@cases
@given(content=spoiled(SAFE))
def test_safetensors_of_any_bytes(folder, content):
    path = place(folder, "model.safetensors", content)
    refused(lambda: read_whole(path))
    refused(lambda: read_weights(path))
    refused(lambda: read_tensors(path, "map", "make it again", header="h"))


@cases
@given(header=misled(json.loads(SAFE[8 : 8 + struct.unpack("<Q", SAFE[:8])[0]])))
def test_safetensors_of_any_header(folder, header):
    path = place(folder, "model.safetensors", packed(json.dumps(header).encode()))
    refused(lambda: read_whole(path))
    refused(lambda: read_weights(path))


@cases
@given(header=wrong, sums=st.none() | wrong)
def test_notes_that_are_none(folder, header, sums):
    path = write_tensors(folder / "notes.safetensors", ARRAYS, {"h": json.dumps(header)})
    if sums is not None:
        notes = {"h": json.dumps(header), "atlas_jax.sha256": json.dumps(sums)}
        path.write_bytes(save(ARRAYS, notes))
    refused(lambda: read_tensors(path, "map", "make it again", header="h"))


@pytest.mark.parametrize("size", [s for s in HUGE if s > 2**31])
def test_a_header_of_claimed_size_is_not_believed(folder, size):
    path = place(folder, "model.safetensors", packed(b"{}", size=size))
    assert refused(lambda: read_whole(path)) and refused(lambda: read_weights(path))


def test_a_name_that_comes_twice_is_refused(folder):
    one = '"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
    path = place(folder, "model.safetensors", packed(f"{{{one},{one}}}".encode(), b"\0" * 8))
    assert refused(lambda: read_whole(path))


@cases
@given(content=spoiled(NPZ))
def test_npz_of_any_bytes(folder, content):
    refused(lambda: read_weights(place(folder, "params.npz", content)))


@cases
@given(content=spoiled(NPY))
def test_npy_of_any_bytes(folder, content):
    path = place(folder, "rows.npy", content)

    def read():
        with refusing("rows"):
            np.array(read_npy(path)).sum()

    refused(read)


@cases
@given(content=st.sampled_from((TORCH, TORCH_OLD)).flatmap(spoiled))
def test_torch_files_of_any_bytes(folder, content):
    path = place(folder, "pytorch_model.bin", content)
    refused(lambda: read_whole(path))
    refused(lambda: read_weights(path))


@cases
@given(data=st.data())
def test_gguf_of_any_bytes(folder, header_file, data):
    path = place(folder, "m.gguf", data.draw(spoiled(header_file)))

    def read():
        header = Header(path)
        for tensor in header.tensors.values():
            assert tensor.data.nbytes <= 2 * path.stat().st_size

    refused(read)


def _claims(size: int = 2**40) -> dict[str, bytes]:
    """Small files whose headers claim gigabytes."""
    array = io.BytesIO()
    described = {"descr": "<f4", "fortran_order": False, "shape": (size,)}
    np.lib.format.write_array_header_1_0(array, described)
    npz = io.BytesIO()
    with zipfile.ZipFile(npz, "w") as archive:
        archive.writestr("a.npy", array.getvalue() + b"\0" * 64)
    bomb = io.BytesIO()
    np.savez_compressed(bomb, a=np.zeros(1 << 23, np.float32))
    key, text = b"llama.x", struct.pack("<Q", 7)
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text + key
    numbers = start + struct.pack("<IIQ", 9, 0, size) + b"\0" * 64
    words = start + struct.pack("<IIQ", 9, 8, size) + b"\0" * 64
    nested = start + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 2000
    tensor = struct.pack("<Q", 1) + b"t" + struct.pack("<IQQIQ", 2, 2**32, 2**32, 0, 0)
    repeated = torch.zeros(1).expand(1 << 28)
    return {
        "params.npz": npz.getvalue(),
        "bomb.npz": bomb.getvalue(),
        "rows.npy": array.getvalue() + b"\0" * 64,
        "numbers.gguf": numbers,
        "words.gguf": words,
        "nested.gguf": nested,
        "many.gguf": b"GGUF" + struct.pack("<IQQ", 3, 2**63, 2**63),
        "tensor.gguf": b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + tensor + b"\0" * 64,
        "view.pt": _torch({"a": repeated}),
        "meta.pt": _torch({"a": torch.zeros(1 << 28, device="meta")}),
        "sparse.pt": _torch({"a": torch.zeros(9, 9).to_sparse()}),
        "list.pt": _torch([torch.zeros(2)]),
    }


@pytest.mark.parametrize("name", _claims())
def test_no_memory_is_taken_for_a_claim(folder, name):
    path = place(folder, name, _claims()[name])

    def read():
        if name.endswith(".gguf"):
            Header(path)
        elif name.endswith(".npy"):
            with refusing("rows"):
                np.array(read_npy(path))
        else:
            read_weights(path)

    refused(read)  # what is imported for it is not counted
    tracemalloc.start()
    try:
        assert refused(read)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 2 * path.stat().st_size + SLACK


@pytest.mark.parametrize("name", NAMES)
def test_an_index_names_no_file_elsewhere(tmp_path, name):
    index = {"weight_map": {"a": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert refused(lambda: Checkpoint(tmp_path))


@cases
@given(index=misled({"metadata": {}, "weight_map": {"a": "m.safetensors", "b": "m.safetensors"}}))
def test_an_index_of_any_kind(folder, index):
    inner = folder / "index"
    inner.mkdir(exist_ok=True)
    (inner / "m.safetensors").write_bytes(SAFE)
    (inner / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(lambda: Checkpoint(inner))


def test_what_is_whole_is_still_read(folder, header_file):
    assert set(read_weights(place(folder, "a.npz", NPZ))) == {"a", "b"}
    small = _npz(c=np.zeros((0, 3), np.float32), d=np.asfortranarray(ARRAYS["a"]))
    found = read_weights(place(folder, "b.npz", small))
    assert found["c"].shape == (0, 3) and (found["d"] == ARRAYS["a"]).all()
    for content in (TORCH, TORCH_OLD):
        assert set(TorchFile(place(folder, "c.pt", content)).tensors) == {"a", "b"}
    assert np.array(read_npy(place(folder, "d.npy", NPY))).shape == (2, 3)
    header = Header(place(folder, "e.gguf", header_file))
    assert header.fields["tokenizer.ggml.scores"] == [0.5, 1.5, 2.5]
    tied = torch.ones(64, 8)
    assert len(TorchFile(place(folder, "f.pt", _torch({"a": tied, "b": tied}))).tensors) == 2
    with pytest.raises(InputError, match="no such file"):
        read_tensors(folder / ("x" * 5000), "map", "make it again")
