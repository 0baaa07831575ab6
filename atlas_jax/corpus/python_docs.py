"""Prose of the running Python's documentation: docstrings and help topics, read without import."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from atlas_jax.corpus.documents import Document

_ROLE = re.compile(r":[\w:+-]+:`~?([^`<>]*?)(?:\s*<[^<>`]*>)?`")
_LINK = re.compile(r"`([^`<>]+?)\s*<[^<>`]*>`_*")
_TICKS = re.compile(r"``?([^`]*)``?_?")
_STAR = re.compile(r"(?<![\w*])\*{1,2}([^\s*][^*]*?)\*{1,2}(?![\w*])")
_CODE = re.compile(r"[`{}=<>|\\^~@\[\]]|__|::|->|>>>|\.\.\. |\$ |%[sdr]|\w/\w+/|\b\w+\([^)]*,")
_OPENS = re.compile(r"[A-Z\"'(]")
_ENDS = re.compile(r"[.!?][\"')]*$")
_FIELD = re.compile(r"^(?:[-*+•o]\s|\d+[.)]\s|:\w|@\w|\.\. )")
_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3", "encodings"}
_LETTER_SHARE = 0.85


def python_docs() -> Iterator[Document]:
    """Docstrings of the standard library, one document a module, and the help topics.

    What comes depends on the version of Python that runs.
    """
    for path in _modules():
        tree = _parse(path)
        if tree is None:
            continue
        if path.name == "topics.py" and path.parent.name == "pydoc_data":
            for name, text in sorted(_topics(tree).items()):
                yield from _document(f"topic {name}", [text])
        else:
            yield from _document(_module_name(path), _docstrings(tree))


def _document(name: str, texts: list[str]) -> Iterator[Document]:
    text = "\n\n".join(part for text in texts if (part := docstring_prose(text)))
    if text:
        yield Document("python-docs", name, text)


def docstring_prose(text: str) -> str:
    """The paragraphs of a docstring that are prose: no code, doctest, field list or markup."""
    paragraphs = re.split(r"\n[ \t]*\n", inspect.cleandoc(text))
    return "\n\n".join(part for part in map(_paragraph, paragraphs) if part)


def _paragraph(paragraph: str) -> str:
    lines = paragraph.splitlines()
    indented = any(line[:1].isspace() for line in lines)
    if not lines or indented or any(_FIELD.match(line) for line in lines):
        return ""
    text = " ".join(paragraph.split())
    for pattern in (_ROLE, _LINK, _TICKS, _STAR):
        text = pattern.sub(r"\1", text)
    letters = sum(map(str.isalpha, text))
    if not _OPENS.match(text) or not _ENDS.search(text) or _CODE.search(text):
        return ""
    return text if " " in text and letters > _LETTER_SHARE * len("".join(text.split())) else ""


def _modules() -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    names = sys.stdlib_module_names - {"antigravity", "this", "idlelib", "turtledemo"}
    found = [root / f"{name}.py" for name in names]
    for name in names:
        found += (root / name).rglob("*.py") if (root / name).is_dir() else ()
    return sorted(
        p for p in found if p.is_file() and not _SKIPPED & set(p.parts[len(root.parts) :])
    )


def _module_name(path: Path) -> str:
    parts = path.relative_to(sysconfig.get_path("stdlib")).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _parse(path: Path) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old modules are not our matter
            return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None


def _docstrings(tree: ast.Module) -> list[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented))
    return [text for text in texts if text]


def _topics(tree: ast.Module) -> dict[str, str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            return ast.literal_eval(node.value)
    return {}
