"""Generation against transformers' greedy search, its samplers, and under edits."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from atlas_jax.errors import InputError
from atlas_jax.models import Edit, generate
from atlas_jax.models.sampling import filter_logits
from atlas_jax.models.stream import Stream

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


def test_a_sample_depends_on_its_seed_and_not_on_its_neighbours(pairs, sentences):
    model, done = pairs("tiny_llama").ours, []

    def sample(prompts, seed, **options):
        return generate(model, prompts, max_new_tokens=8, temperature=3.0, seed=seed, **options)

    prompts, seeds = [sentences[0]] * 3, [5, 6, 5]
    one, two, three = sample(
        prompts, seeds, batch_size=2, on_batch=lambda first, texts: done.append((first, texts))
    )
    assert one == three != two and done == [(0, [one, two]), (2, [three])]
    assert sample(prompts[:1], [6]) == [two]
    assert sample(prompts, 1) == sample(prompts, 1, batch_size=1)
    assert len(set(sample(prompts, 1))) == 3
    with pytest.raises(InputError, match="a seed for each of 3 texts, got 2"):
        sample(prompts, [1, 2])


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


def test_streamed_tokens_are_those_of_the_whole(pairs, sentences):
    pair = pairs("tiny_gemma3")
    model, prompts = pair.ours, [sentences[0], "The", "Café 🐶 ½", sentences[1][:23], ""]
    for options in ({}, {"temperature": 2.0, "top_k": 30, "seed": 5}):
        seen: dict[int, list] = {i: [] for i in range(len(prompts))}
        streamed = generate(
            model,
            prompts,
            max_new_tokens=NEW - 2,  # no multiple of the steps between two calls
            batch_size=2,
            on_token=lambda text, token, piece: seen[text].append((token, piece)),  # noqa: B023
            **options,
        )
        assert streamed == generate(model, prompts, max_new_tokens=NEW - 2, batch_size=2, **options)
        for i, text in enumerate(streamed):
            assert "".join(piece for _, piece in seen[i]) == text
            assert model.tokenizer.decode([token for token, _ in seen[i]]) == text
        assert any(seen.values())


def test_a_stream_comes_before_the_end_and_stops_with_the_text(pairs, sentences, monkeypatch):
    model = pairs("tiny_llama").ours
    whole: list[int] = []
    generate(
        model, [sentences[2]], max_new_tokens=9, on_token=lambda _, token, __: whole.append(token)
    )
    assert len(whole) == 9
    cut = next(i for i in range(1, 9) if whole[i] not in whole[:i])
    before, seen = model.stop_ids, []
    try:
        model.stop_ids = (whole[cut],)
        generate(
            model,
            [sentences[2]],
            max_new_tokens=9,
            on_token=lambda _, token, __: seen.append(token),
        )
    finally:
        model.stop_ids = before
    assert seen == whole[:cut]

    # The first pieces come after a few steps, not after all of them.
    module, calls = sys.modules["atlas_jax.models.generate"], []
    advance = module._advance
    monkeypatch.setattr(
        module, "_advance", lambda *a, **k: calls.append("steps") or advance(*a, **k)
    )
    generate(model, [sentences[2]], max_new_tokens=9, on_token=lambda *_: calls.append("token"))
    assert calls[:2] == ["steps", "token"] and calls.count("steps") == 3


def test_characters_of_several_tokens_come_whole():
    def decode(ids):
        return bytes(ids).decode("utf-8", "replace")

    text = "né 🐶!"
    ids, pieces = list(text.encode()), []
    stream = Stream(decode, 3, 1, lambda *call: pieces.append(call))
    for end in range(1, len(ids) + 1):
        stream.advance([ids[:end]])
    assert stream.finish([ids]) == [text]
    assert [token for _, token, _ in pieces] == ids and {i for i, *_ in pieces} == {3}
    assert [piece for *_, piece in pieces] == ["n", "", "é", " ", "", "", "", "🐶", "!"]
    # A text that ends within a character still says all it has.
    pieces.clear()
    stream = Stream(decode, 0, 1, lambda *call: pieces.append(call))
    assert stream.finish([ids[:6]]) == ["né \ufffd"]
    assert "".join(piece for *_, piece in pieces) == "né \ufffd"


TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('system comes first') }}{% endif %}"
    "<bos>{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def test_chat_goes_through_the_template(pairs, monkeypatch):
    pair = pairs("tiny_llama")
    model, tokenizer = pair.ours, pair.ours.tokenizer
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "A recipe?"},
    ]
    with pytest.raises(InputError, match="chat template"):
        tokenizer.chat(messages)
    monkeypatch.setattr(tokenizer.inner, "chat_template", TEMPLATE)
    for reply in (True, False):
        expected = tokenizer.inner.apply_chat_template(
            messages, add_generation_prompt=reply, return_dict=False
        )
        assert tokenizer.chat(messages, reply=reply) == expected
    ids = tokenizer.chat(messages)
    assert ids.count(tokenizer.bos_id) == 2  # the template's own, and no other
    one = [{"role": "user", "content": "The"}]
    expected = [greedy_ids(pair, tokenizer.chat(m)) for m in (messages, one)]
    assert generate(model, [messages, "The"], max_new_tokens=NEW, chat=True) == expected
    with pytest.raises(InputError, match="system comes first"):
        tokenizer.chat(messages[::-1])
    with pytest.raises(InputError, match="chat=True"):
        generate(model, [messages])


def greedy_ids(pair, ids, embeds=None):
    inputs = {"input_ids": torch.tensor([ids])}
    if embeds is not None:
        inputs = {"inputs_embeds": torch.tensor(embeds)[None]}
    out = pair.theirs.model.generate(
        **inputs,
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=NEW,
        do_sample=False,
    )
    new = out[0] if embeds is not None else out[0, len(ids) :]
    return pair.ours.tokenizer.decode(new.numpy())


@pytest.mark.parametrize("name", ["tiny_gemma3", "gpt2"])
def test_embeddings_in_the_place_of_tokens(pairs, sentences, name):
    pair = pairs(name)
    model = pair.ours
    rows = model.tokenizer.encode_batch([sentences[3][:30], sentences[1][:20]])
    length = max(map(len, rows)) + 2
    tokens, mask = model.tokenizer.pad(rows, length)
    table = pair.theirs.model.get_input_embeddings()
    embeds = np.array(model.embed(tokens))
    with torch.no_grad():
        np.testing.assert_allclose(embeds, table(torch.tensor(tokens)).numpy(), rtol=1e-6)
    vector = np.random.default_rng(0).standard_normal(model.arch.d_model).astype(np.float32)
    embeds[:, 3] = 3 * vector * np.linalg.norm(embeds[:, 3]) / np.linalg.norm(vector)
    logits, _ = model(None, mask, inputs_embeds=embeds)
    plain, _ = model(tokens, mask)
    for i, row in enumerate(rows):
        with torch.no_grad():
            mine = torch.tensor(embeds[i : i + 1, : len(row)])
            expected = pair.theirs.model(inputs_embeds=mine).logits[0].numpy()
        got = np.asarray(logits[i])[mask[i]]
        np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())
        assert np.abs(got - np.asarray(plain[i])[mask[i]]).max() > 0.01
    expected = [greedy_ids(pair, row, embeds[i, : len(row)].copy()) for i, row in enumerate(rows)]
    # Padded on the right here, and on the left inside.
    assert generate(model, inputs_embeds=embeds, mask=mask, max_new_tokens=NEW) == expected
    whole = generate(model, inputs_embeds=embeds[:1, : len(rows[0])], max_new_tokens=NEW)
    assert whole == expected[:1]


def test_wrong_embeddings_are_refused(pairs):
    model = pairs("tiny_llama").ours
    d = model.arch.d_model
    ones = np.ones((1, 4, d), np.float32)
    with pytest.raises(InputError, match=r"\(B, T, 32\)"):
        model(None, np.ones((1, 4), bool), inputs_embeds=np.ones((1, 4, d + 1), np.float32))
    with pytest.raises(InputError, match="both or neither"):
        model(np.ones((1, 4), np.int32), np.ones((1, 4), bool), inputs_embeds=ones)
    with pytest.raises(InputError, match="either prompts or inputs_embeds"):
        generate(model, ["The"], inputs_embeds=ones)
    with pytest.raises(InputError, match="a real position in each row"):
        generate(model, inputs_embeds=ones, mask=np.zeros((1, 4), bool))


def test_one_executable_for_prompts_of_like_length(pairs, sentences):
    model, module = pairs("tiny_llama_tied").ours, sys.modules["atlas_jax.models.generate"]

    def count():
        return module._start._cache_size(), module._advance._cache_size()

    site = "blocks.1.mlp.hook_post"
    edits = [Edit(site, np.ones(model.width(site), np.float32), 1.0)]
    start = count()
    generate(model, [sentences[0][:20], "The"], edits, max_new_tokens=5)
    assert count() == (start[0] + 1, start[1] + 1)
    # Other texts, another layer, another strength, in batches and streamed: nothing is compiled.
    other = [Edit("blocks.0.mlp.hook_post", edits[0].vector, -2.0)]
    generate(model, ["Two dogs", "A"], other, max_new_tokens=5)
    generate(model, ["She"] * 3, [other, edits, []], max_new_tokens=5, batch_size=2)
    generate(model, ["She", "A"], edits, max_new_tokens=5, on_token=lambda *_: None)
    assert count() == (start[0] + 1, start[1] + 1)
    generate(model, ["word " * 20, "A"], edits, max_new_tokens=5)
    assert count() == (start[0] + 2, start[1] + 2)


def test_learned_positions_end(pairs, sentences):
    model = pairs("gpt2").ours
    limit = model.arch.positions
    tokens = np.full((1, limit + 1), 5, np.int32)
    mask = np.ones(tokens.shape, bool)
    site = "blocks.0.hook_resid_pre"
    for call in (lambda: model(tokens, mask), lambda: model.read(tokens, mask, [site])):
        with pytest.raises(InputError, match=f"at most {limit} tokens"):
            call()
    with pytest.raises(InputError, match=f"at most {limit} tokens"):
        generate(model, [sentences[0]], max_new_tokens=limit)
    # Padding takes no position.
    mask[0, 0] = False
    assert np.isfinite(np.asarray(model.read(tokens, mask, [site])[site])[mask]).all()


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
