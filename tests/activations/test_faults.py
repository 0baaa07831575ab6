"""Damage is detected and named, never read as data; and the message says how to mend it."""

import re
import resource

import numpy as np
import pytest

from atlas_jax.activations import ActivationStore, capture
from atlas_jax.activations.kvstore import reason
from atlas_jax.errors import InputError

SITES = ("blocks.0.a", "blocks.1.b")


@pytest.fixture(params=["max", "tokens"])
def pool(request):
    return request.param


@pytest.fixture
def again(source, texts, tmp_path, pool):
    """Runs the capture into the same folder."""

    def run():
        size = 32 if pool == "max" else 700
        return capture(source, texts, out=tmp_path / "s", rows_per_part=size, pool=pool)

    return run


@pytest.fixture
def whole(again):
    """What is in the store before it is damaged."""
    store = again()
    return {site: store[site][:] for site in SITES}


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1 << (position % 8)
    path.write_bytes(content)


DAMAGE = {
    "a flipped byte": lambda path: flip(path, path.stat().st_size // 3),
    "a flipped byte of the index": lambda path: flip(path, -9),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("shard", [2, 4])  # one in the middle, and the last, which is not full
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_shard_is_named_and_mended_as_the_message_says(
    again, whole, tmp_path, pool, site, kind, shard
):
    victim = tmp_path / "s" / site / pool / "c" / str(shard) / "0"
    DAMAGE[kind](victim)
    with pytest.raises(InputError, match=f"{site}.* in {tmp_path}/s .*capture again") as caught:
        for batch in ActivationStore.open(tmp_path / "s")[site].batches(40):
            assert np.isfinite(batch).all()
    message = str(caught.value)
    assert "\n" not in message and f"ledger/00000{shard}" in message
    other = SITES[site == SITES[0]]
    np.testing.assert_array_equal(ActivationStore.open(tmp_path / "s")[other][:], whole[other])
    (tmp_path / "s" / "ledger" / re.search(r"ledger/(\d+)", message)[1]).unlink()
    mended = again()
    for name in SITES:
        np.testing.assert_array_equal(mended[name][:], whole[name])


def test_a_shard_that_goes_while_the_store_is_open(again, whole, tmp_path, pool):
    rows = again()["blocks.0.a"]
    (tmp_path / "s" / "blocks.0.a" / pool / "c" / "1" / "0").unlink()
    size = rows.meta["rows_per_part"]
    for read in (
        lambda: rows[:],
        lambda: rows.rows([0, size + 3]),
        lambda: rows[size + 1],
        lambda: list(rows.batches(7)),
        lambda: rows.columns([2]),
    ):
        with pytest.raises(InputError, match=f"Rows {size} to {2 * size - 1} .*missing.*000001"):
            read()
    np.testing.assert_array_equal(rows[:size], whole["blocks.0.a"][:size])


@pytest.mark.parametrize("file", ["blocks.1.b/{}/c/0/0", "blocks.1.b/{}/zarr.json", "meta.json"])
def test_no_flipped_bit_gives_other_values(again, whole, tmp_path, pool, file):
    path = tmp_path / "s" / file.format(pool)
    content = path.read_bytes()
    for position in range(0, len(content), max(1, len(content) // 60)):
        flip(path, position)
        try:
            found = ActivationStore.open(tmp_path / "s")["blocks.1.b"][:]
        except InputError as error:
            assert "\n" not in str(error)
        else:
            np.testing.assert_array_equal(found, whole["blocks.1.b"])
        path.write_bytes(content)


@pytest.mark.parametrize("pool", ["tokens"], indirect=True)
@pytest.mark.parametrize("name", ["ids", "offsets"])
def test_damaged_ids_and_offsets_are_named_and_mended(again, whole, tmp_path, name):
    (shard,) = (tmp_path / "s" / name / "c").glob("0")
    expected = getattr(again()["blocks.0.a"], name)
    for damage in (lambda path: flip(path, 20), lambda path: path.unlink()):
        damage(shard)
        with pytest.raises(InputError, match=f"{name} in .* cannot be read .*ledger/{name}"):
            getattr(ActivationStore.open(tmp_path / "s")["blocks.0.a"], name)
        for key in (name, "000000"):
            (tmp_path / "s" / "ledger" / key).unlink()
        np.testing.assert_array_equal(getattr(again()["blocks.0.a"], name), expected)


def test_a_full_disk_is_named_and_what_was_finished_is_kept(source, texts, tmp_path, table_source):
    source = table_source(widths=(6, 3000))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    settings = {"out": tmp_path / "s", "rows_per_part": 40, "dtype": "float32"}
    source.tables["blocks.1.b"] = np.random.default_rng(0).standard_normal((51, 3000))
    expected = source.expected(texts, "blocks.1.b")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
        with pytest.raises(
            InputError, match="(File too large|Failed to write).*run the same again to go on"
        ):
            capture(source, texts, **settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    np.testing.assert_array_equal(capture(source, texts, **settings)["blocks.1.b"][:], expected)


def test_the_reason_is_in_words():
    text = "Error writing local file: No space left on device [28: ENOSPC]\nmore"
    assert reason(OSError(text)) == "no space left on the disk. Free some."
    assert reason(OSError("Disk quota exceeded")) == "no space left on the disk. Free some."
    assert reason(ValueError("one\ntwo")) == "one."
    assert reason(ValueError()) == "ValueError."


def test_a_place_that_cannot_be_written_to(source, texts, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=f"{tmp_path}/file/s"):
        capture(source, texts, out=tmp_path / "file" / "s")
