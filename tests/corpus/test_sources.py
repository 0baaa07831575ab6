"""Documents from local files, the hub and the default packages, all offline."""

import bz2
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas_jax.corpus import Document, documents
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
    assert [d.text for d in documents(tmp_path / "two.jsonl", text="right")] == ["Two."]
    fails(tmp_path / "two.jsonl", "Expected up", text="up")


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", b"{"), ("b.jsonl", b"[1]"), ("c.parquet", b"none"), ("d.jsonl", b"\xff\xfe")],
)
def test_unreadable_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    fails(tmp_path / name, "readable")


def test_paths_that_lead_nowhere(tmp_path):
    fails(tmp_path / "none", "no")
    fails("./none", "check the path")
    fails("none.jsonl", "check the path")
    fails(tmp_path, "found none")
    (tmp_path / "a.docx").write_bytes(b"")
    fails(tmp_path / "a.docx", "convert")


def test_unknown_package_source():
    fails("packages:news,poems", "poems")


def test_hub_is_streamed(monkeypatch):
    asked = {}

    def load_dataset(path, name, **options):
        asked.update(path=path, name=name, **options)
        return iter(ROWS)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    found = list(documents("owner/pile:small", split="test"))
    assert asked == {"path": "owner/pile", "name": "small", "split": "test", "streaming": True}
    assert [d.source for d in found] == ["Pile-CC", "ArXiv", "owner/pile:small"]


@pytest.mark.parametrize("error", [ConnectionError("no route\nmore"), ValueError("Bad split"),
                                   FileNotFoundError("no such set")])  # fmt: skip
def test_hub_errors(monkeypatch, error):
    def load_dataset(*_, **__):
        raise error

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    fails("owner/pile", str(error).splitlines()[0])


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
