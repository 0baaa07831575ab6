"""Local judges, and agreement between judges against scikit-learn."""

import json
from importlib.resources import files

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from atlas_jax.errors import InputError
from atlas_jax.evaluate import JUDGES, Judge, agreement, cohen_kappa
from atlas_jax.evaluate.judges_local import EmbeddingJudge, LexicalJudge


class Words:
    """Embeds a text as the counts of three words."""

    width, fingerprint = 3, "words"

    def embed(self, texts):
        counts = [[text.count(word) for word in ("cat", "dog", "sea")] for text in texts]
        rows = np.array(counts, np.float32).reshape(-1, 3)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


@pytest.mark.parametrize("weights", [None, "linear", "quadratic"])
@pytest.mark.parametrize("seed", range(5))
def test_kappa_equals_scikit_learn(weights, seed):
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 3, 60)
    b = np.where(rng.random(60) < 0.6, a, rng.integers(0, 3, 60))
    found = agreement(a.tolist(), b.tolist()).kappa(weights or "")
    expected = cohen_kappa_score(a, b, labels=[0, 1, 2], weights=weights)
    assert found == pytest.approx(expected, abs=1e-12)


def test_agreement_counts_what_both_rated():
    found = agreement([0, 1, 2, None, 2, -1], [0, 2, 2, 1, None, 0], ("a", "b"))
    assert found.table.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1]] and found.unrated == 3
    facts = found.to_dict()
    assert facts["n"] == 3 and facts["same"] == pytest.approx(2 / 3)
    assert json.loads(json.dumps(facts)) == facts
    one = agreement([0, 0], [0, 0])
    assert np.isnan(one.kappa()) and one.to_dict()["plain_kappa"] is None
    assert agreement([], []).to_dict()["same"] is None
    with pytest.raises(InputError, match="2 and 1"):
        agreement([0, 1], [0])
    with pytest.raises(InputError, match="cubic"):
        cohen_kappa(np.eye(3), "cubic")


def test_the_embedding_judge_takes_the_nearest_sentence():
    judge = EmbeddingJudge(Words(), present=0.9, vague=0.5)
    texts = ["A cat. The sea.", "sea\ncat dog", "cat dog", "sea! sea", "", " . "]
    assert judge.rate(["cat"] * 6, texts) == [2, 1, 1, 0, 0, 0]
    assert judge.rate(["cat", "dog"], ["dog", "dog"]) == [0, 2]
    assert isinstance(judge, Judge) and judge.rate([], []) == []
    with pytest.raises(InputError, match="vague <= present"):
        EmbeddingJudge(Words(), 0.2, 0.3)


def test_the_lexical_judge_knows_inflections_and_related_words():
    judge = LexicalJudge({"gardening": ["flowers: the word 'tulip'"]})
    texts = ["Her garden", "GARDENS!", "two tulips", "a guard", "the word", "", "gardener's"]
    assert judge.rate(["gardening"] * 7, texts) == [2, 2, 1, 0, 1, 0, 2]
    # Words that carry nothing are no sign of a concept.
    assert judge.rate(["dogs and cats"] * 3, ["this and that", "a dog", "category"]) == [0, 2, 0]
    assert judge.fingerprint != LexicalJudge().fingerprint


def test_the_judges_by_name():
    assert set(JUDGES) == {"endpoint", "embedding", "lexical"}
    assert [JUDGES[name]().name for name in ("embedding", "lexical")] == ["embedding", "lexical"]


def rated():
    """(concept, text, rating) as the sentences were written."""
    data = json.loads(
        files("atlas_jax.evaluate").joinpath("judge_sentences.json").read_text("utf-8")
    )
    for concept in data["concepts"]:
        for other, by_rating in data["concepts"].items():
            yield from ((concept, text, 2 * (concept == other)) for text in by_rating["2"])
        yield from ((concept, text, 1) for text in data["concepts"][concept]["1"])
        yield from ((concept, text, 0) for text in data["none"])


@pytest.mark.download
def test_the_judges_agree_with_sentences_of_known_ratings():
    concepts, texts, ratings = map(list, zip(*rated(), strict=True))
    by_meaning = agreement(EmbeddingJudge().rate(concepts, texts), ratings)
    by_words = agreement(LexicalJudge().rate(concepts, texts), ratings)
    assert by_meaning.kappa() > 0.7 and by_meaning.kappa("quadratic") > 0.78
    # Words are seldom wrong where they occur, and miss most of what is said in others.
    precision = by_words.table[2, 2] / by_words.table[2].sum()
    assert precision > 0.7 and by_words.kappa() < by_meaning.kappa()
