"""Sentences on disk: a file for each chunk of documents, divided so that repeats lie together.

A sentence's rank is a keyed hash of its text. It decides the draw (lowest first), tells repeats
(equal texts have equal ranks) and divides the sentences into parts: the first parts of all files
together hold the lowest ranks. What comes after therefore needs one part in memory at a time.
"""

from __future__ import annotations

import hashlib
import os
import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from operator import itemgetter
from pathlib import Path

import pyarrow as pa

from atlas_jax.corpus.documents import Document, pieces
from atlas_jax.corpus.sentences import Splitter, has_letter, sentences_of
from atlas_jax.corpus.tally import Tally
from atlas_jax.corpus.writer import writing_to
from atlas_jax.outside import utf8

CHUNK = 1 << 21
"""Characters of the documents of one file, before it ends with the document it is in."""
PARTS = 64
"""Parts of a file; a power of two, at most 256."""
RANK = 16
"""Bytes of a rank: 2^-64 is the chance that of 2^32 texts any two have the same."""

SCHEMA = pa.schema(
    [
        ("rank", pa.binary(RANK)),
        ("length", pa.int32()),
        ("text", pa.string()),
        ("source", pa.string()),
        ("document", pa.string()),
    ]
)
_MOST_DOCUMENTS = 1 << 16
_FORMAT = b"2"
_DIGEST = 32
"""Bytes at the end of a file: the sha256 of the others."""


def rank(text: str, seed: int) -> bytes:
    """The place of a text in the draw: BLAKE2b of its UTF-8, keyed with the seed."""
    key = str(seed).encode()
    return hashlib.blake2b(text.encode(), digest_size=RANK, key=key).digest()


def chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Gathers documents by `CHUNK` characters; long ones come in pieces."""
    chunk: list[Document] = []
    size = 0
    for source, name, text in documents:
        blocks = (text[i : i + CHUNK] for i in range(0, len(text), CHUNK))
        for piece in pieces(blocks):
            chunk.append(Document(utf8(source), utf8(name), piece))
            size += len(piece)
            if size >= CHUNK or len(chunk) >= _MOST_DOCUMENTS:
                yield chunk
                chunk, size = [], 0
    if chunk:
        yield chunk


def name_of(chunk: Sequence[Document], seed: int) -> str:
    """A file name that the documents of a chunk determine: what has it need not be made again."""
    digest = hashlib.blake2b(digest_size=16, key=_FORMAT)
    digest.update(f"{seed} {PARTS} {version('nltk')} {sys.version_info[:2]}".encode())
    for document in chunk:
        for value in document:
            content = value.encode("utf-8", "surrogatepass")
            digest.update(b"%d\n" % len(content))
            digest.update(content)
    return f"{digest.hexdigest()}.arrow"


def write_spill(chunk: Sequence[Document], path: Path, splitter: Splitter, seed: int) -> None:
    """Splits the documents of a chunk into sentences and writes those that hold a letter."""
    tally = Tally()
    rows: list[tuple[bytes, int, str, str, str]] = []
    for source, name, text in chunk:
        tally.documents[source] += 1
        for sentence in sentences_of(text, splitter):
            letters = has_letter(sentence)
            tally.add(source, len(sentence), letters)
            if letters:
                rows.append((rank(sentence, seed), len(sentence), sentence, source, name))
    rows.sort(key=itemgetter(0))
    columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
    arrays = [pa.array(c, field.type) for c, field in zip(columns, SCHEMA, strict=True)]
    batch = pa.record_batch(arrays, schema=SCHEMA)
    width = 256 // PARTS
    starts = [bisect_left(columns[0], bytes([part * width])) for part in range(PARTS)]
    ends = [*starts[1:], len(rows)]
    draft = path.with_suffix(f".{os.getpid()}.part")
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    schema = SCHEMA.with_metadata({"tally": tally.dumps()})
    with writing_to(path.parent):
        with pa.ipc.new_file(str(draft), schema, options=options) as writer:
            for start, end in zip(starts, ends, strict=True):
                writer.write_batch(batch.slice(start, end - start))
        with draft.open("r+b") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
            file.write(digest)
        os.replace(draft, path)


def read_tally(path: Path) -> Tally | None:
    """The counts of a spilled chunk; None if its file is not there, or not as it was written."""
    try:
        with pa.memory_map(str(path)) as file:
            content = file.read_buffer(max(0, file.size() - _DIGEST))
            if hashlib.sha256(content).digest() != file.read(_DIGEST):
                return None
            return Tally.loads(pa.ipc.open_file(content).schema.metadata[b"tally"])
    except (FileNotFoundError, pa.ArrowInvalid):
        return None


def read_part(paths: Iterable[Path], part: int) -> pa.Table:
    """The sentences of one part, of all files, in no particular order."""
    batches: list[pa.RecordBatch] = []
    for path in paths:
        with pa.memory_map(str(path)) as file:
            content = file.read_buffer(file.size() - _DIGEST)
            batches.append(pa.ipc.open_file(content).get_batch(part))
    return pa.Table.from_batches(batches, SCHEMA)
