"""The journal: whole after a kill, one writer, nothing of anybody else's overwritten."""

import json
import resource

import pytest

from atlas_jax.errors import InputError
from atlas_jax.journal import Journal, digest


def test_rows_are_found_again_and_added_to(tmp_path):
    path = tmp_path / "deep" / "rows.jsonl"
    with Journal(path) as journal:
        journal.add([{"id": "a", "text": "ä\n"}, {"id": "b", "text": "two"}])
    with Journal(path) as journal:
        assert "a" in journal and "c" not in journal and journal["a"]["text"] == "ä\n"
        journal.add([{"id": "c", "text": ""}])
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["a", "b", "c"]


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_an_unfinished_line_is_cut_off_wherever_it_ends(tmp_path, cut):
    path = tmp_path / "rows.jsonl"
    with Journal(path) as journal:
        journal.add([{"id": "a", "text": "é"}, {"id": "b", "text": "é" * 9}])
    path.write_bytes(path.read_bytes()[:-cut])
    with Journal(path) as journal:
        assert "a" in journal and "b" not in journal
        journal.add([{"id": "b", "text": "again"}])
    assert [json.loads(line)["text"] for line in path.read_text().splitlines()] == ["é", "again"]


def test_another_file_is_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("dear diary\nno more")
    with pytest.raises(InputError, match="line 1 is another text: name another file"):
        Journal(path).__enter__()
    assert path.read_text() == "dear diary\nno more"
    path.write_text("dear diary")
    with pytest.raises(InputError, match="line 1"), Journal(path):
        pass
    assert path.read_text() == "dear diary"


def test_one_writer_at_a_time(tmp_path):
    with Journal(tmp_path / "rows.jsonl") as first:
        with pytest.raises(InputError, match="Another process"), Journal(first.path):
            pass
        first.add([{"id": "a"}])
    with Journal(first.path) as second:
        assert "a" in second


def test_a_place_that_cannot_be_written_to_and_none_at_all(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match="Name another file"),
        Journal(tmp_path / "file" / "rows.jsonl"),
    ):
        pass
    with Journal(None) as memory:
        memory.add([{"id": "a"}])
        assert "a" in memory


def test_a_changed_line_is_refused_and_a_full_disk_told_once(tmp_path):
    path = tmp_path / "rows.jsonl"
    with Journal(path) as journal:
        journal.add([{"id": "a", "value": 0.5}, {"id": "b", "value": 1.5}])
    whole = path.read_text()
    for old, new in (("1.5", "1.4"), ('"sha256"', '"sha257"'), ('"value"', '"valuf"')):
        path.write_text(whole.replace(old, new))
        with pytest.raises(InputError, match="Line . of .* delete that line"), Journal(path):
            pass
    path.write_text('{"id": "a", "value": 0.5}\n')  # of a version without checksums
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60, limits[1]))
        with pytest.raises(InputError, match="goes on where it stopped"), Journal(path) as journal:
            journal.add([{"id": "b", "text": "x" * 99}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with Journal(path) as journal:
        assert "a" in journal and "b" not in journal


def test_ids_depend_on_every_part():
    assert digest("a", 1, [2.0]) == digest("a", 1, [2.0])
    assert len({digest("a", 1), digest("a", 2), digest("a1"), digest(["a", 1])}) == 4
