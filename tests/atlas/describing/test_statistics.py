"""Descriptions of planted features: each names what was planted."""

import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.atlas.describing.activity import find_activity
from atlas_jax.atlas.describing.contexts import cut_words
from atlas_jax.atlas.describing.statistics import by_statistics
from atlas_jax.atlas.labels import DEAD
from atlas_jax.atlas.sae import SAE
from atlas_jax.atlas.token_activations import TokenActivations
from atlas_jax.errors import InputError


@pytest.fixture(scope="module")
def labels(make_planted, sea):
    planted, r = make_planted(), np.random.default_rng(1)
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
        planted.add(9, [" " + sea_objects[i % 10]], list(r.permutation(sea)[:3]))
        planted.add(10, [" of"], before=["House", "Bank"][i % 2])
        planted.add(11, ["\n\n"])
        planted.add(12, [" " + ["States", "Nations", "Kingdom", "Press"][i % 4]], before="United")
        planted.add(13, [" " + ["govern", "government", "governor", "governs"][i % 4]])
    return by_statistics(*planted.material(15))


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


def test_names_the_topic_around_varying_words(labels, sea):
    text = " | ".join(labels[9])
    assert "text about" in text and sum(word in text for word in sea) >= 2, text


def test_dead_features_say_so(labels):
    assert labels[14] == [DEAD]
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
    assert find_activity(sae, recorded, 100.0, range(2)).n_rows == 14
    later = find_activity(sae, recorded, 100.0, range(3, 5))
    for feature in range(4):
        column = acts[:, feature].astype(np.float32)
        assert set(later.of(feature)[0]) == {row for row in range(21, 35) if column[row] > 0.5}
    with pytest.raises(InputError, match="width 4.*got 3"):
        find_activity(sae, TokenActivations(acts[:, :3], recorded.tokens), 100.0)


def test_only_the_features_asked_for(make_planted):
    planted = make_planted()
    for _ in range(6):
        planted.add(0, [" war"])
        planted.add(1, [" peace"])
    found = by_statistics(*planted.material(2), features=[1])
    assert list(found) == [1] and "peace" in found[1][0]
