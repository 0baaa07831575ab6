"""Descriptions of planted features: each names what was planted."""

import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.atlas.describe import describe_features
from atlas_jax.atlas.examples import Activity, ContextReader, cut_words, find_activity
from atlas_jax.atlas.labels import DEAD
from atlas_jax.atlas.sae import SAE
from atlas_jax.atlas.token_activations import TokenActivations

FILLER = "the people of that place said they would have it all again soon".split()
SEA = ["fleet", "vessel", "harbour", "sailors"]
LENGTH = 12


class Planted:
    """Contexts of filler words with chosen words at place 6, and activity on those."""

    def __init__(self) -> None:
        self.pieces = [""]
        self.contexts: list[list[int]] = []
        self.entries: dict[int, list[tuple[int, float]]] = {}
        self.random = np.random.default_rng(0)

    def token(self, piece: str) -> int:
        if piece not in self.pieces:
            self.pieces.append(piece)
        return self.pieces.index(piece)

    def add(self, feature: int, word: list[str], around: list[str] = (), before: str = "") -> None:
        filler = [f" {w}" for w in self.random.choice(FILLER, LENGTH)]
        text = ["", *filler[:5], *word, *filler][:LENGTH]
        if before:
            text[5] = f" {before}"
        for place, other in zip((2, 4, 9, 10), around, strict=False):
            text[place] = f" {other}"
        place = 5 + len(word)
        self.contexts.append([self.token(piece) for piece in text])
        row = (len(self.contexts) - 1) * (LENGTH - 1) + place - 1
        self.entries.setdefault(feature, []).append((row, 5 + self.random.uniform()))

    def describe(self, n_features: int):
        starts, rows, values = [0], [], []
        for feature in range(n_features):
            for row, value in sorted(self.entries.get(feature, ()), key=lambda e: -e[1]):
                rows.append(row)
                values.append(value)
            starts.append(len(rows))
        activity = Activity(
            np.array(starts, np.int64),
            np.array(rows, np.int32),
            np.array(values, np.float32),
            len(self.contexts) * (LENGTH - 1),
        )
        reader = ContextReader(self.pieces, np.array(self.contexts, np.int32))
        return describe_features(activity, reader)


@pytest.fixture(scope="module")
def labels():
    planted, r = Planted(), np.random.default_rng(1)
    words = [[" war"], [" London"], [" tele", "scope"]]
    months = ["March", "April", "July", "May"]
    nouns = ["battle", "fighting", "combat"]
    ings = ["walking", "seeing", "making", "asking", "giving", "turning", "hoping", "buying"]
    names = ["Alice", "Robert", "Churchill", "Lincoln", "Marie", "Tolstoy", "Ada", "Bach"]
    sea_objects = ["rope", "lamp", "coat", "desk", "sun", "tree", "jar", "pen", "cup", "pin"]
    for i in range(16):
        for feature, word in enumerate(words):
            planted.add(feature, word)
        planted.add(3, [" " + months[i % 4]])
        planted.add(4, [" " + nouns[i % 3]])
        planted.add(5, [" " + ings[i % 8]])
        planted.add(6, [" " + names[i % 8]])
        planted.add(7, [","], before=names[i % 8])
        planted.add(8, [f" {1900 + 7 * i}"])
        planted.add(9, [" " + sea_objects[i % 10]], list(r.permutation(SEA)[:3]))
        planted.add(10, [" of"], before=["House", "Bank"][i % 2])
        planted.add(11, ["\n\n"])
        planted.add(12, [" " + ["States", "Nations", "Kingdom", "Press"][i % 4]], before="United")
        planted.add(13, [" " + ["govern", "government", "governor", "governs"][i % 4]])
    return planted.describe(15)


@pytest.mark.parametrize(
    ("feature", "wanted"),
    [
        (0, ["word", "war"]),
        (1, ["word", "London"]),
        (2, ["word", "telescope"]),
        (3, ["months", "March", "July"]),
        (4, ["battle", "fighting", "combat"]),
        (5, ["end in", "-ing"]),
        (6, ["names: ", "Churchill"]),
        (7, ["comma", "after"]),
        (8, ["years"]),
        (10, ['"of"', "House of", "Bank of"]),
        (11, ["line break"]),
        (12, ["after", "United", "States"]),
        (13, ['"govern"']),
    ],
)
def test_names_what_was_planted(labels, feature, wanted):
    for part in wanted:
        assert part in labels[feature][0], labels[feature]


def test_names_the_topic_around_varying_words(labels):
    text = " | ".join(labels[9])
    assert "text about" in text and sum(word in text for word in SEA) >= 2, text


def test_dead_features_say_so(labels):
    assert labels[14] == (DEAD,)
    assert all(labels[f] and "feature" not in labels[f][0] for f in range(15))


def test_words_are_joined_from_tokens():
    context = cut_words(["", "The", " tele", "scope", "'s", " lens", ",", " 1,", "234", "\n"])
    assert context.words == ["The", "telescope's", "lens", "1,234"]
    assert context.word_of == [-1, 0, 1, 1, 1, 2, -1, 3, 3, -1]
    assert context.before[6] == 2 and context.before[5] == 1 and context.before[9] == 3


def test_activity_finds_what_is_active_and_no_sinks():
    r = np.random.default_rng(0)
    acts = r.normal(size=(5 * 7, 4)).astype(np.float16)
    acts[3] = 1000
    eye, zero = jnp.eye(4), jnp.zeros(4)
    sae = SAE(eye, zero, eye, zero, jnp.full(4, 0.5), "jumprelu")
    recorded = TokenActivations(acts, np.zeros((5, 8), np.int32))
    activity = find_activity(sae, recorded, 100.0)
    for feature in range(4):
        rows, values = activity.of(feature)
        column = np.where(np.arange(35) == 3, 0, acts[:, feature].astype(np.float32))
        assert set(rows) == set(np.flatnonzero(column > 0.5))
        np.testing.assert_array_equal(values, np.sort(column[column > 0.5])[::-1])
    assert find_activity(sae, recorded, 100.0, contexts=2).n_rows == 14
