"""Edits: equation 4 at every point, for each text of a batch, with nothing else moved."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from atlas_jax.errors import InputError
from atlas_jax.models import POINTS, Edit, points_of
from atlas_jax.models.sites import apply_edit, stack_edits

TINY = ("tiny_llama", "tiny_llama_tied", "tiny_gemma3")


def direction(model, site, seed=0):
    draw = np.random.default_rng(seed).standard_normal(model.width(site))
    return jnp.asarray(draw / np.linalg.norm(draw), jnp.float32)


def batch(model, texts):
    rows = model.tokenizer.encode_batch(list(texts))
    return model.tokenizer.pad(rows, max(map(len, rows)))


def equation_4(vector, strength):
    s = torch.tensor(np.asarray(vector), dtype=torch.float64)

    def change(acts):
        moved = acts.double() + strength * s
        keep = acts.double().norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True)
        return (moved * keep).to(acts.dtype)

    return change


@pytest.mark.parametrize("name", [*TINY, "gpt2", "gpt_neox", "olmo2"])
def test_an_edit_equals_a_torch_hook_and_keeps_the_norm(pairs, sentences, name):
    pair = pairs(name)
    model = pair.ours
    ids = model.tokenizer.encode_batch([sentences[4]])[0]
    tokens, mask = np.array([ids], np.int32), np.ones((1, len(ids)), bool)
    sites = [f"blocks.1.{point}" for point in points_of(model.arch)]
    vectors = {site: direction(model, site) for site in sites}
    plain, before = pair.theirs.run(ids)
    for site in sites:
        expected, seen = pair.theirs.run(ids, {site: equation_4(vectors[site], 3.0)})
        # All points in one executable; the strengths say which of them is edited.
        edits = [Edit(s, vectors[s], 3.0 if s == site else 0.0) for s in sites]
        logits, acts = model(tokens, mask, taps=sites, edits=edits)
        scale = np.abs(expected).max()
        assert np.abs(expected - plain).max() > 0.01 * scale
        np.testing.assert_allclose(np.asarray(logits[0]), expected, atol=2e-5 * scale, err_msg=site)
        for s in sites:
            np.testing.assert_allclose(
                np.asarray(acts[s][0]), seen[s], atol=2e-5 * np.abs(seen[s]).max(), err_msg=s
            )
        np.testing.assert_allclose(
            np.linalg.norm(np.asarray(acts[site][0]), axis=-1),
            np.linalg.norm(before[site], axis=-1),
            rtol=1e-5,
            err_msg=site,
        )


def test_strength_zero_is_bit_identical(pair, sentences):
    model = pair.ours
    tokens, mask = batch(model, sentences[:3])
    edits = [Edit(f"blocks.1.{p}", direction(model, f"blocks.1.{p}"), 0.0) for p in POINTS]
    sites = [e.site for e in edits]
    # The same program with other numbers: only the vectors differ between the two calls.
    logits, acts = model(tokens, mask, taps=sites, edits=edits)
    none = [Edit(e.site, jnp.zeros_like(e.vector), 0.0) for e in edits]
    plain, seen = model(tokens, mask, taps=sites, edits=none)
    np.testing.assert_array_equal(np.asarray(logits), np.asarray(plain))
    for site in sites:
        np.testing.assert_array_equal(np.asarray(acts[site]), np.asarray(seen[site]))
    expected, _ = pair.theirs.run(tokens[0][mask[0]].tolist())
    np.testing.assert_allclose(
        np.asarray(logits[0])[mask[0]], expected, atol=1e-5 * np.abs(expected).max()
    )


def test_each_text_has_its_own_edits(pair, sentences):
    model = pair.ours
    tokens, mask = batch(model, sentences[:4])
    low, high = "blocks.0.mlp.hook_post", "blocks.1.hook_resid_post"
    one, two, three = direction(model, low), direction(model, low, 1), direction(model, high)
    mine = [[], [Edit(low, one, 4.0)], [], [Edit(low, two, -2.0), Edit(high, three, 5.0)]]
    logits, _ = model(tokens, mask, edits=mine)
    for i, edits in enumerate(mine):
        row = tokens[i][mask[i]].tolist()
        change = {e.site: equation_4(e.vector, e.strength) for e in edits}
        expected, _ = pair.theirs.run(row, change)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(np.asarray(logits[i])[mask[i]], expected, atol=2e-5 * scale)
        moved = np.abs(expected - pair.theirs.run(row)[0]).max()
        assert moved > 0.01 * scale if edits else moved == 0


def test_an_edit_changes_its_site_alone_and_what_follows(pairs, sentences):
    model = pairs("tiny_gemma3").ours
    tokens, mask = batch(model, sentences[:2])
    site = "blocks.2.hook_attn_out"
    sites = [f"blocks.{layer}.{point}" for layer in range(4) for point in POINTS]
    _, acts = model(tokens, mask, taps=sites, edits=[Edit(site, direction(model, site), 2.0)])
    _, plain = model(tokens, mask, taps=sites)
    edited = sites.index(site)
    gaps = [np.abs(np.asarray(acts[s] - plain[s]))[mask].max() for s in sites]
    assert max(gaps[:edited]) < 1e-5
    assert min(gaps[edited:]) > 1e-3


def test_padding_is_never_edited(pairs, sentences):
    model = pairs("tiny_llama").ours
    tokens, mask = batch(model, sentences[:2])
    assert not mask.all()
    site = "blocks.0.hook_resid_pre"
    _, acts = model(tokens, mask, taps=[site], edits=[Edit(site, direction(model, site), 9.0)])
    _, plain = model(tokens, mask, taps=[site])
    same = (np.asarray(acts[site]) == np.asarray(plain[site])).all(axis=-1)
    np.testing.assert_array_equal(same, ~mask)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_apply_edit_against_float64(dtype):
    rng = np.random.default_rng(0)
    acts = jnp.asarray(rng.standard_normal((2, 5, 16)), dtype)
    vector = jnp.asarray(rng.standard_normal((2, 16)), jnp.float32)
    strength = jnp.array([2.5, -40.0], jnp.float32)
    where = jnp.ones((2, 5), bool)
    out = apply_edit(acts, vector, strength, jnp.ones(2, jnp.int32), where)
    a = np.asarray(acts.astype(jnp.float32), np.float64)
    moved = a + np.asarray(strength, np.float64)[:, None, None] * np.asarray(vector)[:, None, :]
    expected = moved * np.linalg.norm(a, axis=-1, keepdims=True)
    expected /= np.linalg.norm(moved, axis=-1, keepdims=True)
    assert out.dtype == acts.dtype
    tolerance = 1e-6 if dtype == "float32" else 2**-8
    np.testing.assert_allclose(
        np.asarray(out.astype(jnp.float32)), expected, rtol=tolerance, atol=tolerance
    )


def test_an_activation_that_the_edit_cancels_becomes_zero_not_nan():
    acts = jnp.ones((1, 1, 4))
    one, steer, where = jnp.ones((1,)), jnp.ones((1,), jnp.int32), jnp.ones((1, 1), bool)
    out = apply_edit(acts, -jnp.ones((1, 4)), one, steer, where)
    np.testing.assert_array_equal(np.asarray(out), np.zeros((1, 1, 4)))
    still = apply_edit(jnp.zeros((1, 1, 4)), jnp.ones((1, 4)), one, steer, where)
    np.testing.assert_array_equal(np.asarray(still), np.zeros((1, 1, 4)))


def by_hand(mode, a, s, strength):
    """Each mode in float64."""
    s = np.asarray(s, np.float64)
    unit = s / np.linalg.norm(s)
    along = a @ unit
    if mode == "ablate":
        return a - strength * along[:, None] * unit
    if mode == "clamp":
        return a + (strength - along)[:, None] * unit
    moved = a + strength * s
    if mode == "add":
        return moved
    return moved * (np.linalg.norm(a, axis=-1) / np.linalg.norm(moved, axis=-1))[:, None]


@pytest.mark.parametrize("name", ["tiny_gemma3", "gpt2"])
def test_modes_equal_torch_hooks_side_by_side_in_one_batch(pairs, sentences, name):
    pair = pairs(name)
    model, site = pair.ours, "blocks.1.hook_mlp_out"
    s = 2 * direction(model, site)
    plan = {"add": 1.5, "ablate": 1.0, "clamp": -2.0, "steer": 3.0}
    tokens, mask = batch(model, [sentences[4]] * len(plan))
    logits, acts = model(
        tokens, mask, taps=[site], edits=[[Edit(site, s, v, m)] for m, v in plan.items()]
    )
    ids = tokens[0][mask[0]].tolist()
    for i, (mode, value) in enumerate(plan.items()):

        def change(a, mode=mode, value=value):
            return torch.tensor(by_hand(mode, a[0].double().numpy(), s, value))[None].to(a.dtype)

        expected, seen = pair.theirs.run(ids, {site: change})
        scale = np.abs(expected).max()
        np.testing.assert_allclose(np.asarray(logits[i]), expected, atol=3e-5 * scale, err_msg=mode)
        np.testing.assert_allclose(
            np.asarray(acts[site][i]), seen[site], atol=3e-5 * np.abs(seen[site]).max()
        )
    unit = np.asarray(s) / np.linalg.norm(s)
    for i, component in ((1, 0.0), (2, -2.0)):
        np.testing.assert_allclose(np.asarray(acts[site][i]) @ unit, component, atol=1e-4)


def test_norms_are_kept_to_1e_6_at_any_width():
    rng = np.random.default_rng(1)
    for width, strength in ((64, 50.0), (2048, -50.0), (14336, 1.0)):
        spread = np.exp(rng.standard_normal((2, 9, width)))
        acts = (rng.standard_normal((2, 9, width)) * spread).astype(np.float32)
        vector = rng.standard_normal((2, width)).astype(np.float32)
        out = apply_edit(
            jnp.asarray(acts),
            jnp.asarray(vector),
            jnp.full(2, strength),
            jnp.ones(2, jnp.int32),
            jnp.ones((2, 9), bool),
        )
        before = np.linalg.norm(acts.astype(np.float64), axis=-1)
        after = np.linalg.norm(np.asarray(out, np.float64), axis=-1)
        np.testing.assert_allclose(after, before, rtol=1e-6)
        assert np.abs(np.asarray(out) - acts).max() > 0.1


@pytest.mark.parametrize("mode", ["steer", "add", "ablate", "clamp"])
def test_a_direction_of_zeros_or_a_strength_of_zero_changes_no_bit(pairs, sentences, mode):
    model, site = pairs("tiny_llama").ours, "blocks.1.hook_resid_pre"
    tokens, mask = batch(model, sentences[:2])
    _, plain = model(tokens, mask, taps=[site])
    still = [Edit(site, jnp.zeros(32), 4.0, mode)]
    if mode != "clamp":
        still.append(Edit(site, direction(model, site), 0.0, mode))
    for edit in still:
        _, acts = model(tokens, mask, taps=[site], edits=[edit])
        np.testing.assert_array_equal(np.asarray(acts[site]), np.asarray(plain[site]))


def test_an_unknown_mode_is_refused(pairs, sentences):
    model = pairs("tiny_llama").ours
    tokens, mask = batch(model, sentences[:1])
    with pytest.raises(InputError, match="steer, add, ablate, clamp, got 'push'"):
        model(tokens, mask, edits=[Edit("blocks.1.hook_resid_pre", jnp.ones(32), 1.0, "push")])


def test_stacks_have_one_shape_whatever_is_edited(pairs):
    arch = pairs("tiny_gemma3").ours.arch
    width = arch.d_mlp
    one = Edit("blocks.3.mlp.hook_post", jnp.ones(width), 2.0)
    stack = stack_edits([[], [one]], arch)["mlp.hook_post"]
    assert stack.vector.shape == (arch.n_layers, 2, width)
    assert float(stack.vector.sum()) == width and float(stack.vector[3, 1].sum()) == width
    assert float(stack.strength.sum()) == 2.0 == float(stack.strength[3, 1])


@pytest.mark.parametrize(
    ("site", "width", "part"),
    [
        ("blocks.9.mlp.hook_post", 56, "blocks.0 to blocks.2"),
        ("blocks.1.mlp.hook_pre", 56, "'blocks.1.mlp.hook_pre'"),
        ("mlp.hook_post", 56, "'mlp.hook_post'"),
        ("blocks.1.mlp.hook_post", 32, "56 features"),
    ],
)
def test_wrong_edits_are_refused(pairs, sentences, site, width, part):
    model = pairs("tiny_llama").ours
    tokens, mask = batch(model, sentences[:1])
    with pytest.raises(InputError) as caught:
        model(tokens, mask, edits=[Edit(site, jnp.ones(width), 1.0)])
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_two_edits_at_one_site_and_too_few_lists_are_refused(pairs, sentences):
    model = pairs("tiny_llama").ours
    tokens, mask = batch(model, sentences[:2])
    edit = Edit("blocks.1.mlp.hook_post", jnp.ones(56), 1.0)
    with pytest.raises(InputError, match=r"Two edits at blocks\.1\.mlp\.hook_post"):
        model(tokens, mask, edits=[edit, edit])
    with pytest.raises(InputError, match="each of 2 texts, got 3"):
        model(tokens, mask, edits=[[edit], [], []])


@pytest.mark.parametrize("name", ["blocks.3.hook_resid_pre", "blocks.-1.hook_z", "", "embed"])
def test_unknown_sites_are_refused_by_name(pairs, sentences, name):
    model = pairs("tiny_llama").ours
    tokens, mask = batch(model, sentences[:1])
    for call in (
        lambda: model.width(name),
        lambda: model(tokens, mask, taps=[name]),
        lambda: model.read(tokens, mask, [name]),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert f"'{name}'" in str(caught.value) and "\n" not in str(caught.value)


def test_blocks_side_by_side_have_nothing_between_them(pairs, sentences):
    model = pairs("gpt_neox").ours
    tokens, mask = batch(model, sentences[:1])
    with pytest.raises(InputError) as caught:
        model.read(tokens, mask, ["blocks.1.hook_resid_mid"])
    message = str(caught.value)
    assert "'blocks.1.hook_resid_mid'" in message and "points of gpt_neox" in message
    assert "hook_attn_out" in message and "\n" not in message
