"""Concept sets from texts: read by two models, from files, and written by a third."""

import json

import numpy as np
import pytest

from atlas_jax.errors import InputError
from atlas_jax.evaluate import read_sets, sets_from_texts, write_sets
from atlas_jax.evaluate.set_writer import parse_texts, write_texts
from atlas_jax.models import load_model

SITE = "blocks.1.mlp.hook_post"


class TwoSides:
    """A model whose only site stands for an atlas's."""

    def __init__(self, model, site):
        self.model, self.sites, self.mesh = model, (site,), None
        self.name, self.fingerprint, self.tokenizer = "atlas", "a.b", model.tokenizer
        self.width, self.read = model.width, model.read


def test_the_means_are_those_of_each_text_read_alone(tiny_llama, sentences):
    model = load_model(str(tiny_llama))
    atlas = TwoSides(model, "blocks.2.hook_resid_post")
    texts = {9: list(sentences[:3]), 4: list(sentences[3:5])}
    sets = sets_from_texts(model, SITE, atlas, texts, source="by hand")
    assert list(sets.features) == [4, 9] and sets.size == 3 and sets.source == "by hand"

    def mean(site, group):
        rows = []
        for text in group:
            ids = model.tokenizer.encode_batch([text])
            acts = model.read(*model.tokenizer.pad(ids, len(ids[0])), (site,))[site]
            rows.append(np.asarray(acts)[0, 1:].max(axis=0))  # not the first token
        return np.mean(rows, axis=0)

    for i, feature in enumerate((4, 9)):
        np.testing.assert_allclose(
            sets.queries[i], mean("blocks.2.hook_resid_post", texts[feature]), rtol=2e-4, atol=2e-5
        )
        np.testing.assert_allclose(
            sets.means[i], mean(SITE, texts[feature])[[4, 9]], rtol=2e-4, atol=2e-5
        )
    with pytest.raises(InputError, match=r"from 0 to 55, got \[56\]"):
        sets_from_texts(model, SITE, atlas, {56: ["some words"]})


def test_files_round_trip_and_are_refused_by_line(tmp_path):
    texts = {3: ["one text", "zwei, über"], 1: ["three"]}
    assert read_sets(write_sets(tmp_path / "sets.jsonl", texts)) == texts
    for lines, message in (
        ('{"feature": 1, "texts": ["a"]}\n{"feature": "2", "texts": ["a"]}', "line 2"),
        ('{"feature": 1, "texts": []}', "line 1"),
        ('{"feature": 1, "texts": ["a", " "]}', "line 1"),
        ("not json", "line 1"),
        ('{"feature": 1, "texts": ["a"]}\n\n{"feature": 1, "texts": ["b"]}', "1 comes twice"),
        ("\n", "has none"),
    ):
        (tmp_path / "bad.jsonl").write_text(lines)
        with pytest.raises(InputError, match=message):
            read_sets(tmp_path / "bad.jsonl")
    with pytest.raises(InputError, match="there is none"):
        read_sets(tmp_path / "nowhere.jsonl")


class Model:
    """An endpoint that answers about the features it was told of."""

    model = "writer"

    def __init__(self, answers):
        self.answers, self.asked = answers, []

    def ask(self, questions, parse, progress=""):
        found = []
        for question in questions:
            self.asked.append(question[0]["content"])
            answer = next(a for name, a in self.answers.items() if name in self.asked[-1])
            try:
                found.append(parse(answer))
            except ValueError:
                found.append(None)
        return found


def test_written_texts_by_feature():
    good = json.dumps(
        ["The sea was calm.", "Ships lay at anchor.", "The sea was calm.", "Rain fell."]
    )
    model = Model({"harbours": f"Here they are:\n{good}", "cats": "I would rather not."})
    found = write_texts.__wrapped__(model, {5: "harbours", 8: "cats"}, 3)
    assert found == {5: ["The sea was calm.", "Ships lay at anchor.", "Rain fell."]}
    assert "Write 3 different" in model.asked[0]
    with pytest.raises(InputError, match="got none for 1"):
        write_texts.__wrapped__(model, {8: "cats"}, 3)
    with pytest.raises(InputError, match="got none"):
        write_texts.__wrapped__(model, {}, 3)


@pytest.mark.parametrize(
    "answer", ["", "]no[", '["one text"]', "[1, 2, 3]", '["a b", "a b", "a b"]', "[1, 2"]
)
def test_answers_that_are_no_use(answer):
    with pytest.raises(ValueError):
        parse_texts(answer, 2)
