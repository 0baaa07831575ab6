"""Files: whole or not there, readable as others are, and no flipped bit goes unseen."""

import os
import stat
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from atlas_jax.errors import InputError
from atlas_jax.files import read_tensors, write_json, write_tensors, write_text, writing

TENSORS = {
    "rows": np.arange(12, dtype=np.float32).reshape(3, 4),
    "half": np.ones((2, 2), ml_dtypes.bfloat16),
    "one": np.array(3, np.int64),
    "none": np.zeros((0, 5), np.float32),
}


def read(path: Path, **how):
    return read_tensors(path, "map", "make it again", **how)


def test_what_was_there_stays_until_the_new_one_is_whole(tmp_path):
    path = write_text(tmp_path / "deep" / "a.txt", "old")
    with pytest.raises(ZeroDivisionError), writing(path) as draft:
        draft.write_text("half of the n")
        raise ZeroDivisionError
    assert path.read_text() == "old" and os.listdir(path.parent) == ["a.txt"]
    write_json(path, {"ü": 1})
    assert path.read_text("utf-8") == '{\n "ü": 1\n}\n' and os.listdir(path.parent) == ["a.txt"]


def test_places_that_cannot_be_written_to_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"Could not write .*file/a.txt: .*Ask the owner\.$"):
        write_text(tmp_path / "file" / "a.txt", "text", remedy="Ask the owner")
    with pytest.raises(InputError, match="No space left on device"):
        _full(tmp_path)
    assert os.listdir(tmp_path) == ["file"]


def _full(folder: Path) -> None:
    with writing(folder / "a.txt") as draft:
        draft.unlink()
        draft.symlink_to("/dev/full")
        with draft.open("w") as file:
            file.write("text" * 4096)


def test_tensors_come_back_and_may_be_read_by_all_who_read_other_files(tmp_path):
    path = write_tensors(tmp_path / "a.safetensors", TENSORS, {"format": "x", "header": "[1, 2]"})
    notes, found = read(path, kind="x", header="header", needs=("rows",))
    assert notes == {"format": "x", "header": [1, 2]}
    assert {k: (v.dtype, v.tolist()) for k, v in found.items()} == {
        k: (v.dtype, v.tolist()) for k, v in TENSORS.items()
    }
    assert set(read(path, prefix="ro")[1]) == {"rows"} and read(path, prefix=None)[1] == {}
    other = write_text(tmp_path / "a.txt", "")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


def test_no_flipped_bit_and_no_missing_byte_is_read_silently(tmp_path):
    path = write_tensors(tmp_path / "a.safetensors", TENSORS, {"format": "x", "header": "[1, 2]"})
    whole = path.read_bytes()
    right = read(path)
    unseen = 0
    for byte in range(len(whole)):
        bits = bytearray(whole)
        bits[byte] ^= 1 << (byte % 8)
        path.write_bytes(bits)
        try:
            notes, found = read(path)
        except InputError as error:
            assert "damaged" in str(error) and str(error).endswith("make it again.")
            continue
        unseen += 1
        assert found.keys() == right[1].keys()  # a note's own name, or white space
        assert all(np.array_equal(found[k], right[1][k]) for k in found)
        assert {k: v for k, v in notes.items() if k in right[0]} == right[0]
    assert unseen < 0.05 * len(whole)
    for cut in (1, 7, 100, len(whole) - 3):
        path.write_bytes(whole[:-cut])
        with pytest.raises(InputError, match="damaged"):
            read(path)


def test_files_of_others_have_no_checksums_and_are_read(tmp_path):
    save_file({"rows": TENSORS["rows"]}, tmp_path / "a.safetensors", {"format": "x"})
    assert read(tmp_path / "a.safetensors")[0] == {"format": "x"}
    for how, message in (
        ({"kind": "y"}, "format 'y'"),
        ({"needs": ("bias",)}, "bias missing"),
        ({"header": "header"}, "damaged"),
    ):
        with pytest.raises(InputError, match=message):
            read(tmp_path / "a.safetensors", **how)
    with pytest.raises(InputError, match="Expected a map at .* there is no such file"):
        read(tmp_path / "b.safetensors")


def test_the_same_tensors_and_notes_are_the_same_bytes(tmp_path):
    tensors = {"b": np.arange(5.0), "a": np.ones((2, 3), np.float32)}
    notes = {name: f'{name} é \u2028 " \\ \x01 \x7f' for name in "zyxwvutsrqponm"}
    files = [write_tensors(tmp_path / name, tensors, notes) for name in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()
    found, values = read_tensors(files[0], "file", "make it again")
    assert found == notes and (values["b"] == tensors["b"]).all()
