"""Documents from local files and the default packages, all offline."""

import bz2
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas_jax.corpus import Document, build_corpus, documents
from atlas_jax.corpus.documents import LONGEST, pieces
from atlas_jax.errors import InputError


def fails(source, match, **options):
    with pytest.raises(InputError, match=match) as error:
        list(documents(source, **options))
    assert "\n" not in str(error.value)


def test_text_file_and_folder(tmp_path):
    (tmp_path / "law").mkdir()
    (tmp_path / "law" / "b.txt").write_text("\ufeffThe law.", "utf-8")
    (tmp_path / "a.txt").write_text("Ä text.", "utf-8")
    (tmp_path / "empty.txt").write_text(" ")
    (tmp_path / "image.png").write_bytes(b"\x00")
    assert list(documents(tmp_path / "a.txt")) == [Document("a", "a.txt", "Ä text.")]
    assert list(documents(str(tmp_path))) == [
        Document(tmp_path.name, "a.txt", "Ä text."),
        Document("law", "b.txt", "The law."),
    ]


ROWS = [
    {"text": "One.", "meta": {"pile_set_name": "Pile-CC"}},
    {"text": "Two.", "meta": {"pile_set_name": "ArXiv"}},
    {"text": None, "meta": {"pile_set_name": "ArXiv"}},
    {"text": "Four.", "meta": None},
]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_tables_with_a_nested_source(tmp_path, suffix):
    path = tmp_path / f"pile{suffix}"
    if suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    found = list(documents(path))
    assert [d.source for d in found] == ["Pile-CC", "ArXiv", "pile"]
    assert [d.text for d in found] == ["One.", "Two.", "Four."]
    assert len({d.document for d in found}) == 3


def test_csv_with_long_fields_and_named_documents(tmp_path):
    long = "word " * 50_000
    (tmp_path / "t.csv").write_text(f'id,content\nx7,"a, ""b""\nc"\nx8,{long}\n')
    found = list(documents(tmp_path / "t.csv"))
    assert found[0] == Document("t", "x7", 'a, "b"\nc')
    assert found[1].text == long


def test_meta_kept_as_a_json_string(tmp_path):
    row = {"text": "One.", "meta": json.dumps({"pile_set_name": "Books"})}
    (tmp_path / "p.jsonl").write_text(json.dumps(row))
    assert [d.source for d in documents(tmp_path / "p.jsonl")] == ["Books"]


def test_text_columns(tmp_path):
    (tmp_path / "one.jsonl").write_text('{"phrase": "One.", "size": 4}')
    assert [d.text for d in documents(tmp_path / "one.jsonl")] == ["One."]
    (tmp_path / "two.jsonl").write_text('{"left": "One.", "right": "Two."}')
    fails(tmp_path / "two.jsonl", "left, right")
    assert [d.text for d in documents(tmp_path / "two.jsonl", text_column="right")] == ["Two."]
    fails(tmp_path / "two.jsonl", "Expected up .* left, right", text_column="up")


def test_source_columns(tmp_path):
    rows = [{"text": "One.", "a": {"b": "x"}}, {"text": "Two.", "a": {"b": None}}]
    rows += [{"text": "Three.", "a": None}, {"text": "Four.", "a": {"b": 3}}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = list(documents(tmp_path / "t.jsonl", source_column="a.b"))
    assert [d.source for d in found] == ["x", "t", "t", "t"]
    fails(tmp_path / "t.jsonl", "Expected a.c in t.jsonl, got the columns", source_column="a.c")
    fails(tmp_path / "t.jsonl", "text, a", source_column="b")


def zstd(content: bytes) -> bytes:
    return pa.compress(content, "zstd", asbytes=True)


@pytest.mark.parametrize(("suffix", "squeeze"), [(".gz", gzip.compress), (".zst", zstd)])
def test_compressed_files(tmp_path, suffix, squeeze):
    lines = [json.dumps(row).encode() + b"\n" for row in ROWS]
    parts = squeeze(b"".join(lines[:2])) + squeeze(
        b"".join(lines[2:])
    )  # as several writers leave it
    (tmp_path / f"pile.jsonl{suffix}").write_bytes(parts)
    found = list(documents(tmp_path / f"pile.jsonl{suffix}"))
    assert [d.source for d in found] == ["Pile-CC", "ArXiv", "pile"]
    (tmp_path / f"t.csv{suffix}").write_bytes(squeeze(b"text\nA cat.\n"))
    assert [d.text for d in documents(tmp_path / f"t.csv{suffix}")] == ["A cat."]
    (tmp_path / f"t.TXT{suffix.upper()}").write_bytes(squeeze("Ä cat.".encode()))
    assert next(iter(documents(tmp_path / f"t.TXT{suffix.upper()}"))).text == "Ä cat."
    assert len(list(documents(tmp_path))) == 5
    (tmp_path / f"pile.jsonl{suffix}").write_bytes(parts[:-9])
    fails(tmp_path / f"pile.jsonl{suffix}", "Could not read")
    (tmp_path / f"p.parquet{suffix}").write_bytes(b"")
    fails(tmp_path / f"p.parquet{suffix}", "convert")


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.jsonl", b'{"text": "a"}\n{', "line 2 is not JSON"),
        ("b.jsonl", b"[1]", "line 1 holds a list"),
        ("c.parquet", b"none", "arquet"),
        ("c.parquet", b"", "arquet"),
        ("d.jsonl", b"\xff\xfea\x00", "UTF-16"),
        ("d.txt", "Ä".encode("utf-16"), "UTF-16"),
        ("e.jsonl.zst", b"plain", "ZSTD"),
        ("e.jsonl.gz", b"plain", "zlib|gzip|header"),
        ("g.jsonl", b'{"text": "a", "b": ' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_unreadable_files(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    fails(tmp_path / name, f"Could not read .*{what}")


def test_a_field_beyond_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("atlas_jax.corpus.local._FIELD_LIMIT", 1000)
    (tmp_path / "t.csv").write_text(f"text\n{'x' * 1001}\n")
    fails(tmp_path / "t.csv", "Could not read .*field larger")


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.txt", b"A \xff cat.", "A \ufffd cat."),
        ("a.jsonl", b'{"text": "A \xff cat."}', "A \ufffd cat."),
        ("a.jsonl", b'{"text": "A \\ud800 cat."}', "A \ud800 cat."),
        ("a.jsonl", b'\n\n"A cat."\n', "A cat."),
        ("a.csv", b"text\nA \xff cat.\n", "A \ufffd cat."),
        ("a.csv", b"\xef\xbb\xbftext,b\nA cat.\n", "A cat."),
        ("a.csv", b"text\nA\x00cat.,more,and more\n", "A\x00cat."),
    ],
)
def test_files_that_are_not_as_they_should_be(tmp_path, name, content, text):
    (tmp_path / name).write_bytes(content)
    assert [d.text for d in documents(tmp_path / name)] == [text]


def test_bytes_in_a_table(tmp_path):
    pq.write_table(pa.table({"text": pa.array([b"A \xff cat."])}), tmp_path / "t.parquet")
    assert [d.text for d in documents(tmp_path / "t.parquet")] == ["A \ufffd cat."]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.txt.gz", "a.jsonl.zst"])
def test_empty_files(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert list(documents(tmp_path / name)) == []
    with pytest.raises(InputError, match="documents with text .* got none"):
        build_corpus(tmp_path / name)


def test_a_huge_text_file_is_read_in_pieces(tmp_path):
    paragraph = "The quick brown fox jumps. " * 40
    text = "\n\n".join(f"{i} {paragraph}" for i in range(3000))
    (tmp_path / "big.txt").write_text(text)
    found = list(documents(tmp_path / "big.txt"))
    assert len(found) > 2 and max(len(d.text) for d in found) <= LONGEST
    assert "".join(d.text for d in found) == text
    assert all(d.text.startswith("\n\n") for d in found[1:])


@pytest.mark.parametrize("gap", ["\n\n", "\n", " ", ""])
def test_pieces_lose_nothing(gap):
    text = (("x" * 1000) + gap) * (5 * LONGEST // 2000)
    blocks = [text[i : i + 700_001] for i in range(0, len(text), 700_001)]
    found = list(pieces(blocks))
    assert "".join(found) == text and 2 < len(found) < 6
    assert all(len(piece) <= LONGEST for piece in found)
    assert all(piece.startswith(gap) for piece in found[1:])


def test_paths_that_lead_nowhere(tmp_path):
    fails(tmp_path / "none", "no")
    fails("./none", "check the path")
    fails("none.jsonl", "check the path")
    fails("none.jsonl.zst", "check the path")
    fails("", "empty name")
    fails(tmp_path, "found none")
    (tmp_path / "a.docx").write_bytes(b"")
    fails(tmp_path / "a.docx", "convert")


def test_unknown_package_source():
    fails("packages:news,poems", "poems")


def test_packages_from_a_cache_made_here(monkeypatch, tmp_path):
    (tmp_path / "speeches").mkdir()
    (tmp_path / "speeches" / "1961-K-1.txt").write_text(
        "[As delivered]\n\nMr. Speaker,\n\nA Heading\n\nWe begin. (Applause.) We go on.\n"
    )
    (tmp_path / "news.cor").write_text("One report.\n\nAnother.\n")
    quotes = tmp_path / "quotes"
    quotes.mkdir()
    (quotes / "fortunes").write_text("$FreeBSD$\n%\nBe brief.\n\t\t-- A. Author, 1900\n%\n/\\/\\\n")
    (quotes / "murphy").write_text("It will amphi-\nbiously fail.\n%\n")
    page = "<page><title>{}</title><ns>{}</ns>{}<revision><text>{}</text></revision></page>"
    pages = [
        page.format("Cat", 0, "", "'''Cats''' are [[animal|animals]]."),
        page.format("Felis", 0, '<redirect title="Cat"/>', "#REDIRECT [[Cat]]"),
        page.format("Talk", 1, "", "Some chat."),
    ]
    xml = f'<mediawiki xmlns="urn:x">{"".join(pages)}</mediawiki>'
    (tmp_path / "wiki.bz2").write_bytes(bz2.compress(xml.encode()))
    files = {
        "text-speeches": "speeches",
        "text-news": "news.cor",
        "text-quotations": "quotes",
        "text-wikipedia": "wiki.bz2",
    }
    monkeypatch.setattr("atlas_jax.corpus.packages.fetch", lambda name: tmp_path / files[name])
    assert list(documents("packages:news, speeches,quotations,wikipedia")) == [
        Document("news", "news:0", "One report."),
        Document("news", "news:1", "Another."),
        Document("speeches", "1961-K-1", "We begin. We go on."),
        Document("quotations", "fortunes:1", "Be brief."),
        Document("quotations", "murphy:0", "It will amphibiously fail."),
        Document("wikipedia", "Cat", "Cats are animals."),
    ]
