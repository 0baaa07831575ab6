"""Prose out of a Wikipedia dump: a small reader of wikitext that keeps the running text only.

Templates and links are rewritten from the innermost outwards, so nesting needs no parser.
"""

from __future__ import annotations

import bz2
import html
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.S)
# Formulas and examples of code leave a mark, and the sentence they stood in goes with them.
_HOLE = "\x00"
_HOLES = re.compile(
    r"<(math|chem|code|syntaxhighlight|source|score)\b[^>]*?(?<!/)>.*?</\1\s*>", re.S
)
_BLOCKS = re.compile(
    r"<(ref|gallery|timeline|imagemap|references|table|pre|div|nowiki)\b[^>]*?(?<!/)>.*?</\1\s*>",
    re.S | re.I,
)
_EMPTY_REF = re.compile(r"<(?:ref|references|br|nowiki|section)\b[^>]*/>", re.I)
_BREAK = re.compile(r"<br\s*/?>", re.I)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_TEMPLATE = re.compile(r"\{\{([^{}]*)\}\}")
_LINK = re.compile(r"\[\[([^\[\]]*)\]\]")
_NO_LABEL = re.compile(
    r"\s*:?\s*(?:file|image|category|media|[a-z]{2,3}|wikt\w*|s|commons)\s*:", re.I
)
_EXTERNAL = re.compile(r"\[(?:https?|ftp)?:?//[^\s\]]*\s*([^\]]*)\]")
_URL = re.compile(r"\b(?:https?|ftp)://\S+")
_HEADING = re.compile(r"^(={2,6})\s*(.*?)\s*\1\s*$")
_EMPHASIS = re.compile(r"'{2,5}")
_MAGIC = re.compile(r"__[A-Z]+__")
_EMPTY_PARENTHESES = re.compile(r"\s*\(\s*[,;:.\s]*\)")
_OPEN_PARENTHESIS = re.compile(r"\((?:\s*[,;:]\s*|\s+)")
_SPACE_BEFORE = re.compile(r"\s+([,.;:)])")
_HOLED_SENTENCE = re.compile(r"[^.!?\x00]*\x00(?:[^.!?]|[.!?](?=\S))*(?:[.!?]|$)")
_CLOSING = "\"')\N{RIGHT DOUBLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}"
_APPENDICES = {
    *("see also", "references", "external links", "further reading", "notes", "bibliography"),
    *("footnotes", "sources", "citations", "notes and references", "works cited", "discography"),
    *("filmography", "works", "publications", "selected works", "awards"),
}
# Templates that stand for words, and which of their arguments those words are.
_SPOKEN = {"lang": 1, "nowrap": 0, "transl": 1, "small": 0, "nobold": 0, "abbr": 0, "as of": 0}
_PUNCTUATION = {
    "ndash": "\N{EN DASH}",
    "mdash": "\N{EM DASH}",
    "spaced ndash": " \N{EN DASH} ",
    "snd": " \N{EN DASH} ",
    "'": "'",
    "nbsp": " ",
}


def articles(path: Path) -> Iterator[tuple[str, str]]:
    """Yields title and prose of each article of a bz2 dump; redirects and lists are left out."""
    with bz2.open(path) as stream:
        for _, element in ElementTree.iterparse(stream):
            if element.tag.rpartition("}")[2] != "page":
                continue
            page = {child.tag.rpartition("}")[2]: child for child in element.iter()}
            title, text = page["title"].text or "", page["text"].text or ""
            if page["ns"].text == "0" and "redirect" not in page:
                cleaned = clean(text)
                if cleaned and not title.startswith("List of") and "(disambiguation)" not in title:
                    yield title, cleaned
            element.clear()


def clean(text: str) -> str:
    """The running text of a page in wikitext: paragraphs divided by blank lines."""
    if text.lstrip()[:9].upper() == "#REDIRECT":
        return ""
    text = _COMMENT.sub("", text)
    text = _EMPTY_REF.sub(lambda m: "\n" if m[0].lower().startswith("<br") else "", text)
    text = _BLOCKS.sub("", text)
    text = _HOLES.sub(_HOLE, text)
    text = _innermost(_TEMPLATE, _spoken, text)
    text = _innermost(_LINK, _label, _without_tables(text))
    text = _URL.sub("", _EXTERNAL.sub(r"\1", text))
    text = _TAG.sub("", _BREAK.sub(" ", text))
    text = html.unescape(_MAGIC.sub("", _EMPHASIS.sub("", text))).replace("\xa0", " ")
    return "\n\n".join(_paragraphs(text))


def _innermost(pattern: re.Pattern[str], replace, text: str) -> str:
    """Rewrites innermost brackets until none is left: what held them becomes innermost next."""
    changed = 1
    while changed:
        text, changed = pattern.subn(replace, text)
    return text


def _spoken(match: re.Match[str]) -> str:
    """The words a template stands for; nothing for the many that stand beside the text."""
    name, *rest = (part.strip() for part in match[1].split("|"))
    name = name.lower()
    arguments = [part for part in rest if "=" not in part]
    if name in _PUNCTUATION:
        return _PUNCTUATION[name]
    if name in ("convert", "cvt") and len(arguments) > 1:
        return f"{arguments[0]} {arguments[1]}"
    if name in ("circa", "c.", "ca"):
        return "c. " + " ".join(arguments[:1])
    if name.startswith("lang-") and arguments:
        return arguments[0]
    at = _SPOKEN.get(name)
    if at is not None and at < len(arguments):
        return arguments[at] if name != "as of" else "As of " + " ".join(arguments[:1])
    return _HOLE if name in ("math", "mvar", "chem", "sfrac", "frac", "val", "ipa") else ""


def _label(match: re.Match[str]) -> str:
    target, _, label = match[1].partition("|")
    if _NO_LABEL.match(target):
        return ""
    return label.rpartition("|")[2] or target.lstrip(":").partition("#")[0]


def _without_tables(text: str) -> str:
    depth, kept = 0, []
    for line in text.splitlines():
        start = line.lstrip(" :*")
        if start.startswith("{|"):
            depth += 1
        elif depth and start.startswith("|}"):
            depth -= 1
        elif not depth:
            kept.append(line)
    return "\n".join(kept)


def _paragraphs(text: str) -> Iterator[str]:
    appendix = 0
    for line in text.splitlines():
        heading = _HEADING.match(line.strip())
        if heading:
            level = len(heading[1])
            if not appendix or level <= appendix:
                appendix = level if heading[2].lower() in _APPENDICES else 0
            continue
        if appendix or line[:1] in tuple("*#:;|!{} "):  # lists, indents, leftovers of tables
            continue
        line = _HOLED_SENTENCE.sub("", line) if _HOLE in line else line
        line = _EMPTY_PARENTHESES.sub("", _OPEN_PARENTHESIS.sub("(", line))
        line = _SPACE_BEFORE.sub(r"\1", " ".join(line.split()))
        if line and line.rstrip(_CLOSING)[-1:] in (".", "!", "?") and "[[" not in line:
            yield line
