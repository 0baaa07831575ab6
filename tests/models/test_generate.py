"""Generation against transformers' greedy search, its samplers, and under edits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from atlas_jax.errors import InputError
from atlas_jax.models import Edit, generate
from atlas_jax.models.generate import filter_logits

NEW = 12


def greedy(pair, prompt, new=NEW):
    """Transformers' continuation of one prompt, without padding."""
    ids = torch.tensor([pair.ours.tokenizer.encode_batch([prompt])[0]])
    out = pair.theirs.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False
    )
    return pair.ours.tokenizer.decode(out[0, ids.shape[1] :].numpy())


def test_greedy_equals_transformers_for_prompts_of_unlike_length(pair, sentences):
    prompts = [sentences[0], "The", sentences[1][:23], "", sentences[5]]
    expected = [greedy(pair, prompt) for prompt in prompts]
    assert generate(pair.ours, prompts, max_new_tokens=NEW) == expected
    assert len(set(expected)) > 1


def test_batches_of_any_size_generate_the_same(pairs, sentences):
    model, prompts = pairs("tiny_gemma3").ours, [sentences[0], "The", sentences[1][:23]]
    assert generate(model, prompts, max_new_tokens=6, batch_size=2) == generate(
        model, prompts, max_new_tokens=6
    )


def test_generation_stops_at_the_end_of_sequence(pairs, sentences):
    pair = pairs("tiny_llama_tied")
    ids = pair.ours.tokenizer.encode_batch([sentences[0]])[0]
    out = pair.theirs.model.generate(
        torch.tensor([ids]), max_new_tokens=NEW, do_sample=False, eos_token_id=None
    )[0, len(ids) :].tolist()
    cut = next(i for i in range(1, NEW) if out[i] not in out[:i])
    before = pair.ours.stop_ids
    try:
        pair.ours.stop_ids = (out[cut],)
        short = generate(pair.ours, [sentences[0]], max_new_tokens=NEW)[0]
    finally:
        pair.ours.stop_ids = before
    assert short == pair.ours.tokenizer.decode(out[:cut])


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gemma3"])
def test_edits_steer_the_prompt_and_every_new_token(pairs, sentences, name):
    pair = pairs(name)
    model, site, new_tokens = pair.ours, "blocks.1.mlp.hook_post", 6
    draw = np.random.default_rng(0).standard_normal(model.width(site))
    s = jnp.asarray(draw / np.linalg.norm(draw), jnp.float32)
    strength = 8.0
    vector = torch.tensor(np.asarray(s)) * strength
    prompt, other = sentences[3][:20], sentences[0]

    def reference(text, edit_prompt):
        ids = model.tokenizer.encode_batch([text])[0]
        new = []

        def change(acts):
            moved = acts + vector
            moved = moved * acts.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True)
            in_prompt = torch.arange(acts.shape[1])[None, :, None] < len(ids)
            return moved if edit_prompt else torch.where(in_prompt, acts, moved)

        for _ in range(new_tokens):
            new.append(int(pair.theirs.run(ids + new, {site: change})[0][-1].argmax()))
        return model.tokenizer.decode(new)

    def ours(strength, **options):
        edits = [[Edit(site, s, strength)], []]
        return generate(model, [prompt, other], edits, max_new_tokens=new_tokens, **options)

    plain = [greedy(pair, text, new_tokens) for text in (prompt, other)]
    steered = reference(prompt, True)
    assert steered != plain[0]
    assert ours(strength) == [steered, plain[1]]
    assert ours(0.0) == plain
    assert ours(strength, edit_prompt=False) == [reference(prompt, False), plain[1]]


def test_samples_are_reproducible_and_follow_the_seed(pairs, sentences):
    model = pairs("tiny_llama").ours

    def sample(seed, temperature=3.0, **options):
        return generate(
            model, sentences[:3], max_new_tokens=8, temperature=temperature, seed=seed, **options
        )

    assert sample(1) == sample(1) != sample(2)
    # One token left to choose from is greedy, whatever the seed.
    plain = generate(model, sentences[:3], max_new_tokens=8)
    assert sample(1, top_k=1) == plain == sample(2, top_p=1e-6)
    assert sample(3, temperature=1e-4) == plain


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.7), (0, 0.05), (9, 0.5)])
def test_filters_equal_transformers(top_k, top_p):
    logits = np.random.default_rng(0).standard_normal((6, 50)).astype(np.float32) * 3
    expected = torch.tensor(logits)
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    got = filter_logits(jnp.asarray(logits), top_k, jnp.float32(top_p))
    np.testing.assert_array_equal(np.asarray(got), expected.numpy())


def test_samples_follow_the_filtered_distribution():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))
    kept = filter_logits(logits, 0, jnp.float32(0.75))
    draws = jax.random.categorical(jax.random.key(0), jnp.tile(kept, (4000, 1)))
    share = np.bincount(np.asarray(draws), minlength=4) / 4000
    np.testing.assert_allclose(share, [0.625, 0.375, 0, 0], atol=0.03)


@pytest.mark.parametrize(
    "options",
    [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1}],
)
def test_wrong_options_are_refused(pairs, options):
    with pytest.raises(InputError, match="Expected max_new_tokens"):
        generate(pairs("tiny_llama").ours, ["The"], **options)


def test_no_prompts_and_wrong_edits_are_refused(pairs):
    model = pairs("tiny_llama").ours
    with pytest.raises(InputError, match="at least one prompt"):
        generate(model, [])
    with pytest.raises(InputError, match=r"'blocks\.1\.hook_nothing'"):
        generate(model, ["The"], [Edit("blocks.1.hook_nothing", jnp.ones(32), 1.0)])
    with pytest.raises(InputError, match="'nowhere'"):
        generate(model, ["The"], [Edit("nowhere", jnp.ones(32), 1.0)])
