"""Nothing that comes from outside is run, and nothing leaves its folder."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from atlas_jax.assets.catalogue import Member, Package
from atlas_jax.assets.wheels import extract
from atlas_jax.atlas.embed import SentenceEmbedder
from atlas_jax.atlas.formats.files import read_tensors
from atlas_jax.errors import InputError
from atlas_jax.models.checkpoint import Checkpoint
from atlas_jax.models.language_model import load_model
from atlas_jax.models.tokenizer import Tokenizer
from atlas_jax.outside import inside, read_npy, refusing

from .mutations import NAMES, refused


class Planted:
    """What creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def planted(tmp_path):
    """Where a file appears if something was run; at the end there must be none."""
    path = tmp_path / "something was run"
    yield Planted(path)
    assert not path.exists()


def _objects(planted: Planted) -> np.ndarray:
    array = np.empty(1, object)
    array[0] = planted
    return array


def test_the_planted_pickle_would_run(tmp_path):
    pickle.loads(pickle.dumps(Planted(tmp_path / "run")))
    assert (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["ae.pt", "pytorch_model.bin", "consolidated.00.pth", "sae.pkl"])
@pytest.mark.parametrize("kind", ["plain", "torch", "old torch"])
def test_pickles_are_refused(tmp_path, planted, name, kind):
    path, content = tmp_path / name, {"a": torch.zeros(2), "b": planted}
    if kind == "plain":
        path.write_bytes(pickle.dumps(planted))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "torch")
    assert refused(lambda: read_tensors(path))
    assert refused(lambda: Checkpoint(tmp_path))


def test_arrays_of_objects_are_refused(tmp_path, planted):
    np.savez(tmp_path / "params.npz", W_enc=_objects(planted))
    assert "run code" in str(refused(lambda: read_tensors(tmp_path / "params.npz")))
    np.save(tmp_path / "rows.npy", _objects(planted))
    (tmp_path / "plain.npy").write_bytes(pickle.dumps(planted))
    for name in ("rows.npy", "plain.npy"):
        with pytest.raises(InputError), refusing("rows"):
            read_npy(tmp_path / name)


def test_code_that_a_model_brings_is_not_asked_for(
    tiny_llama, tiny_tokenizer, tmp_path, planted, monkeypatch
):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # somebody who says yes to everything
    code = f"import os\nos.mkdir({str(planted.path)!r})\n\nclass T:\n    pass\n"
    for source in (tiny_llama, tiny_tokenizer):
        folder = tmp_path / source.name
        folder.mkdir()
        for path in source.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / "evil.py").write_text(code)
        for name in ("config.json", "tokenizer_config.json"):
            path = folder / name
            content = json.loads(path.read_text()) if path.exists() else {}
            found = {
                "AutoConfig": "evil.T",
                "AutoModel": "evil.T",
                "AutoModelForCausalLM": "evil.T",
            }
            found["AutoTokenizer"] = ["evil.T", "evil.T"]
            path.write_text(json.dumps({**content, "auto_map": found, "tokenizer_class": "T"}))
        refused(lambda folder=folder: Tokenizer(folder))
    refused(lambda: load_model(tmp_path / tiny_llama.name))
    (tmp_path / tiny_llama.name / "model.safetensors").write_bytes(save({"a": np.ones(1)}))
    assert refused(lambda: SentenceEmbedder(tmp_path / tiny_llama.name))


@pytest.mark.parametrize("name", NAMES)
def test_names_lead_nowhere_else(tmp_path, name):
    message = refused(lambda: inside(tmp_path / "folder", name))
    leaves = ".." in name.split("/") or name in ("", ".") or name[:1] == "/"
    assert message if leaves or "\\" in name or "\0" in name else message is None


_MEMBERS = (
    *("../x.txt", "/x.txt", "a/../../x.txt", "..\\x.txt", "C:\\x.txt", "a:x.txt", "a\\..\\x.txt"),
    *("./../x.txt", "//x.txt"),
)


@pytest.mark.parametrize("name", _MEMBERS)
def test_members_of_a_wheel_stay_inside(tmp_path, name):
    wheel, folder = tmp_path / "a.whl", tmp_path / "deep" / "folder"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        info = zipfile.ZipInfo("x")
        info.filename = name
        archive.writestr(info, b"content")
    before = sorted(tmp_path.rglob("*"))
    package = Package("a==1", (Member("*x.txt", "0" * 64),))
    assert "stay inside" in str(refused(lambda: extract(wheel, package, folder)))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_in_a_wheel_is_a_file(tmp_path):
    wheel = tmp_path / "a.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        info = zipfile.ZipInfo("x.txt")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    package = Package("a==1", (Member("*x.txt", "0" * 64),))
    assert "sha256" in str(refused(lambda: extract(wheel, package, tmp_path)))
    assert not (tmp_path / "x.txt").exists()


@pytest.mark.parametrize("flag", [0x1, 0x20])
def test_a_wheel_that_cannot_be_unpacked(tmp_path, flag):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("x.txt", b"content")
    raw = bytearray(content.getvalue())
    raw[6] |= flag  # encrypted, or patched
    raw[raw.index(b"PK\1\2") + 8] |= flag
    (tmp_path / "a.whl").write_bytes(raw)
    package = Package("a==1", (Member("*x.txt", "0" * 64),))
    assert refused(lambda: extract(tmp_path / "a.whl", package, tmp_path))
