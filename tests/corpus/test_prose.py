"""Markup that must not reach the corpus, and prose that must."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.corpus.packages import quotation
from atlas_jax.corpus.python_docs import docstring_prose, python_docs
from atlas_jax.corpus.wikitext import clean


@pytest.mark.parametrize(
    ("wikitext", "prose"),
    [
        ("'''A''' is ''b''.", "A is b."),
        ("See [[Cat|the cats]] and [[dog]]s.", "See the cats and dogs."),
        ("A [[Dog#Breeds]] barks.", "A Dog barks."),
        ("[[File:x.jpg|thumb|A [[cat]].]]\nText.", "Text."),
        ("[[Category:Cats]]\n[[fr:Chat]]\nText.", "Text."),
        ("A fact.<ref>Book, p. 3.</ref><ref name=x /> Next.", "A fact. Next."),
        ("A fact.<ref name=a/> Kept.<ref>b</ref>", "A fact. Kept."),
        ("{{Infobox|a={{b|c}}\n|d=e}}\nText.", "Text."),
        ("It is {{convert|10|km|mi}} long.", "It is 10 km long."),
        ("Called {{lang|fr|chat}} there.", "Called chat there."),
        ("It ({{IPAc-en|x}}; ) is.", "It is."),
        ("{| class=x\n| cell.\n{|\n| inner.\n|}\n|}\nText.", "Text."),
        ("== Heading ==\nText.\n=== See also ===\n* [[x]].\nGone.", "Text."),
        ("== References ==\nGone.\n=== Sub ===\nGone too.\n== Life ==\nText.", "Text."),
        ("* A list item.\n# Another.\n: Indented.\nText.", "Text."),
        ("One. Where <math>x^2</math> is a square. Three.", "One. Three."),
        ("A [http://x.org site] says so.", "A site says so."),
        ("Tom &amp; Jerry&nbsp;ran.<!-- note -->", "Tom & Jerry ran."),
        ("no end of a sentence", ""),
        ("#REDIRECT [[Cat]]", ""),
        ("#redirect [[Cat]]", ""),
        ("One.\n\nTwo.", "One.\n\nTwo."),
    ],
)
def test_wikitext(wikitext, prose):
    assert clean(wikitext) == prose


MARKS = ["{{", "}}", "[[", "]]", "{|", "|}", "|", "==", "''", "&lt;", "a"]
TAGS = ["<ref>", "</ref>", "<math>", "</math>"]


@given(st.lists(st.sampled_from([*MARKS, *TAGS, "\n", ". "])))
def test_broken_wikitext_never_fails(parts):
    result = clean("".join(parts))
    assert "\x00" not in result and "[[" not in result


@pytest.mark.parametrize("piece", ["{{a|", "[[a|", "<ref>", "{|\n", "<math>", "''", "<!--", "( , "])
def test_deep_nesting_is_not_slow(piece):
    start = time.perf_counter()
    clean(piece * 3000 + "Text.")
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("\nBe brief.\n\t\t-- A. Author\n", "Be brief."),
        ("Be brief.\n\t\t-- A. Author,\n\t\t   A Long Book\n", "Be brief."),
        ("To be with\n-- or without.", "To be with\n-- or without."),
        ("b\x08bold words here\n", "bold words here"),
        ("a\n\n\nb c d", "a\n\nb c d"),
        ("|| ----- || ===== ||", ""),
        ("        centred title\ntext", ""),
        ("$FreeBSD$", ""),
        ("", ""),
    ],
)
def test_quotations(entry, text):
    assert quotation(entry) == text


@pytest.mark.parametrize(
    ("docstring", "prose"),
    [
        ("Return the cat.\n\n>>> cat()\n'cat'\n\nIt purrs.", "Return the cat.\n\nIt purrs."),
        ("Use :class:`~a.Cat` or ``dog``.", "Use a.Cat or dog."),
        ("Say:\n\n    cat.purr(3, 4).\n\nThen leave.", "Then leave."),
        ("Parameters.\n\n- one thing.\n- another.", ""),
        (":param x: The cat.", ""),
        ("f(x, y) -> z.", ""),
        ("The *best* cat.", "The best cat."),
        ("lower case start.", ""),
        ("No end", ""),
    ],
)
def test_docstrings(docstring, prose):
    assert docstring_prose(docstring) == prose


def test_the_running_python_documents_itself():
    found = list(python_docs())
    assert len(found) > 200 and sum(len(d.text) for d in found) > 300_000
    names = [d.document for d in found]
    assert "argparse" in names and len(set(names)) == len(names)
    assert not [d.document for d in found if re.search(r">>>|::|`|->", d.text)]
