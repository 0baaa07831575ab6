"""Every family against logits that transformers gave once; torch is not needed here."""

import numpy as np

from atlas_jax.models import load_model
from atlas_jax.models.weights import tensor_shapes


def test_logits_equal_the_frozen_ones(golden, checkpoint, recipe):
    model = load_model(checkpoint(golden["name"]))
    tokens = np.array([golden["tokens"]], np.int32)
    logits, _ = model(tokens, np.ones(tokens.shape, bool))
    expected = np.array(golden["logits"])
    got = np.asarray(logits)[0, list(recipe.POSITIONS), :: recipe.EVERY]
    scale = np.abs(expected).max()
    assert scale > 0.5 and expected.shape == got.shape
    np.testing.assert_allclose(got, expected, atol=1e-5 * scale)


def test_goldens_are_small_and_cover_the_families(recipe):
    from atlas_jax.models import FAMILIES

    files = list(recipe.FOLDER.glob("*.json"))
    assert max(file.stat().st_size for file in files) < 8000
    assert {recipe.read(file.stem)["config"]["model_type"] for file in files} == set(FAMILIES)


def test_the_table_names_what_the_checkpoint_holds(golden, checkpoint, recipe):
    model = load_model(checkpoint(golden["name"]))
    held = sorted(tuple(t.shape) for n, t in recipe.tensors(golden).items() if "vision" not in n)
    held = [shape for shape in held if 8 not in shape]  # the multimodal projector
    assert sorted(tensor_shapes(model.arch).values()) == held
