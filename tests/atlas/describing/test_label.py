"""Labelling a whole atlas, from every source, on a tiny model."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.atlas import ModelActivations, collect, label_atlas, save_saelens
from atlas_jax.atlas.describing import explain
from atlas_jax.atlas.describing.explain import parse_label, question
from atlas_jax.atlas.labels import Labels
from atlas_jax.atlas.sae import SAE
from atlas_jax.endpoint import Endpoint
from atlas_jax.errors import InputError
from atlas_jax.models import load_model

SITE, D, F = "blocks.1.hook_resid_post", 32, 12
TEMPLATE = "{% for m in messages %}<bos>{{ m['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def model(tiny_llama):
    model = load_model(tiny_llama)
    model.tokenizer.inner.chat_template = TEMPLATE
    return model


@pytest.fixture(scope="module")
def source(model, sentences, tmp_path_factory):
    texts = [f"{a} {b}" for a in sentences for b in sentences]
    return collect(model, texts, SITE, tmp_path_factory.mktemp("acts"), 1500, 12)


@pytest.fixture
def folder(tmp_path, source):
    r = np.random.default_rng(0)
    x = np.asarray(source.acts, np.float32)
    encoder = r.normal(size=(D, F)).astype(np.float32)
    z = x @ encoder
    theta = np.quantile(z, 0.9, axis=0).astype(np.float32)
    theta[5] = 1e6
    sae = SAE(
        jnp.asarray(encoder),
        jnp.zeros(F),
        jnp.asarray(encoder.T),
        jnp.zeros(D),
        jnp.asarray(theta),
        "jumprelu",
    )
    save_saelens(sae, tmp_path, site=SITE, model_name="tiny", max_norm=1e5)
    return tmp_path


class Canned(Endpoint):
    """Answers without a network; what it was asked is kept."""

    def ask(self, questions, parse, progress=""):
        self.asked = list(questions)
        answers = [f'Label: "thing {i}."' for i in range(len(questions))]
        return [None if i == 0 else parse(text) for i, text in enumerate(answers)]


def test_statistics_and_vocabulary(folder, source, model, embedder):
    found = label_atlas(folder, source, model, embedder, ("statistics", "vocabulary"))
    rows = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
    assert found.rows() == rows
    assert {row["source"] for row in rows} == {"statistics", "vocabulary"}
    assert {row["feature"] for row in rows} == set(range(F))
    assert "score" not in next(row for row in rows if row["feature"] == 5)
    scores = [row["score"] for row in rows if "score" in row]
    assert len(scores) > F and all(0 <= score <= 1 for score in scores)
    for feature in range(F):
        mine = [row.get("score", -1) for row in rows if row["feature"] == feature]
        assert mine == sorted(mine, reverse=True)
    assert Labels.load(folder / "labels.jsonl").coverage(F) == 1


def test_sources_add_to_each_other(folder, source, model, embedder):
    (folder / "labels.jsonl").write_text('{"feature": 3, "description": "by hand"}\n')
    label_atlas(folder, source, model, embedder)
    before = Labels.load(folder / "labels.jsonl")
    assert "by hand" in before[3]
    endpoint = Canned("http://host/v1", "sage")
    found = label_atlas(
        folder, source, model, embedder, ["endpoint"], features=[2, 3, 5], endpoint=endpoint
    )
    # Feature 5 is dead and not asked for; the first answer was none.
    assert [(f, d.text, d.source) for f, d in found.pairs()] == [(3, "thing 1", "endpoint sage")]
    assert len(endpoint.asked) == 2
    text = endpoint.asked[0][0]["content"]
    assert text.count("[[") == 1 + 10 and text.startswith(explain.INSTRUCTIONS)
    after = Labels.load(folder / "labels.jsonl")
    assert set(after[3]) == {*before[3], "thing 1"} and after[2] == before[2]
    again = label_atlas(folder, source, model, embedder)
    assert {*again[3], "by hand", "thing 1"} == set(Labels.load(folder / "labels.jsonl")[3])


def test_a_model_of_ours_explains_and_resumes(folder, source, model, embedder, monkeypatch):
    calls = []

    def written(model, prompts, **options):
        calls.append(len(prompts))
        assert options["chat"] and "Excerpts:" in prompts[0][0]["content"]
        return ["<think>well\n\n</think>a label\nand more", *[""] * (len(prompts) - 1)]

    monkeypatch.setattr(explain, "generate", written)
    monkeypatch.setattr(explain, "_CHUNK", 4)

    def run():
        return label_atlas(
            folder, source, model, embedder, ["model"], features=range(6), explainer=model
        )

    found = run()
    assert calls == [4, 1]  # features 0 to 4; 5 is dead
    assert found.descriptions == {0: ("a label",), 4: ("a label",)}
    assert {label.source for _, label in found.pairs()} == {f"model {model.name}"}
    assert run() == found and calls == [4, 1]


def test_a_model_of_ours_really_runs(folder, source, model, embedder, tiny_llama, tmp_path):
    copied = shutil.copytree(tiny_llama, tmp_path / "llama")
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1024}))
    long = load_model(copied)  # the question is longer than what the tiny model was made for
    long.tokenizer.inner.chat_template = model.tokenizer.inner.chat_template
    found = label_atlas(folder, source, model, embedder, ["model"], features=[1], explainer=long)
    assert len(list((folder / "explanations").glob("*.txt"))) == 1
    assert len(found) <= 1


def test_straight_from_the_model(folder, source, model, embedder):
    recorded = label_atlas(folder, source, model, embedder, features=[1, 2])
    live = ModelActivations(model, SITE, source.tokens, batch=16)
    again = label_atlas(folder, live, model, embedder, features=[1, 2])
    assert again.descriptions == recorded.descriptions


def test_what_is_wrong_is_one_line(folder, source, model, embedder):
    for arguments, message in (
        ({"by": ["magic"]}, "sources among statistics, vocabulary, endpoint, model, got magic"),
        ({"by": ["endpoint"]}, "an endpoint"),
        ({"by": ["model"]}, "a model that explains"),
        ({"features": [0, F]}, "features from 0 to 11"),
        ({"heldout": 1.0}, "held-out share"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            label_atlas(folder, source, model, embedder, **arguments)
        assert "\n" not in str(caught.value)


def test_an_export_is_not_written_over(folder, source, model, embedder):
    row = {"modelId": "gpt2-small", "layer": "8-res-jb", "index": 1, "description": "dogs"}
    path = folder / "labels.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(InputError, match="an export of gpt2-small/8-res-jb, which would lose"):
        label_atlas(folder, source, model, embedder)
    assert json.loads(path.read_text()) == row


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("words for ships\n", "words for ships"),
        ('**Label:** "the word of".', "the word of"),
        ("<think>ships, boats</think>\n\nships", "ships"),
        ("  `C++ code`", "C++ code"),
    ],
)
def test_labels_are_parsed(answer, label):
    assert parse_label(answer) == label


@pytest.mark.parametrize("answer", ["", "  \n", "...", "x" * 500, "Label:"])
def test_malformed_labels_are_refused(answer):
    with pytest.raises(ValueError, match="answer|label"):
        parse_label(answer)


def test_a_feature_that_is_never_active_is_no_question(planted):
    planted.add(0, [" war"])
    activity, reader = planted.material(2)
    assert question(activity, reader, 1) is None
    assert "[[war]]" in question(activity, reader, 0)[0]["content"]
