"""Recipes: what ships is valid, what is wrong is named."""

import pytest

from atlas_jax.errors import InputError
from atlas_jax.pipeline.recipe import Recipe, load_recipe
from atlas_jax.translate import METHODS


def test_the_shipped_recipe():
    recipe = load_recipe("quickstart")
    assert recipe.name == "quickstart"
    assert set(recipe.fit.methods) <= set(METHODS) and recipe.identify.method in recipe.fit.methods
    assert recipe.identify.queries[:2] == ("dogs and cats", "London")


def test_a_file_and_changed_values(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\n[fit]\nmethods = ["ridge"]\nalpha = 2\n')
    recipe = load_recipe(file)
    assert recipe.fit.alpha == 2.0 and isinstance(recipe.fit.alpha, float)
    assert recipe.corpus == Recipe().corpus
    changed = recipe.with_values({"corpus.sequences": 50, "fit.methods": ["covariance"]})
    assert changed.corpus.sequences == 50 and changed.fit.methods == ("covariance",)
    assert changed.fit.alpha == 2.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[corpus]\nsequence = 4\n", "in corpus, got sequence"),
        ("[corpse]\n", "in the recipe, got corpse"),
        ('[corpus]\nsequences = "many"\n', "corpus.sequences of type int, got 'many'"),
        ("[corpus]\nsequences = true\n", "corpus.sequences of type int"),
        ('[fit]\nmethods = "ridge"\n', "fit.methods to be a list"),
        ("corpus = 3\n", "a table .corpus."),
        ("[fit\n", "not valid TOML"),
    ],
)
def test_wrong_recipes_are_named(tmp_path, text, message):
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        load_recipe(file)


def test_unknown_recipes_and_settings():
    with pytest.raises(InputError, match="one of nla_.*paper_.*quickstart, got 'none'"):
        load_recipe("none")
    for name in ("corpus.n", "corpus", "corpus.sequences.more"):
        with pytest.raises(InputError):
            Recipe().with_values({name: 3})
