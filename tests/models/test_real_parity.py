"""Real checkpoints against transformers' own reading of the same GGUF files."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from atlas_jax import assets
from atlas_jax.models import generate, load_model

TEXT = (
    "When the ferry reached the far side of the lake, the keeper of the lighthouse was already "
    "waiting on the pier with a lantern in his hand. He had lived there for 31 years, he said, and "
    "in all that time only two boats had been lost, both in the same week of November 1978. The "
    "children asked him whether it was lonely. “Not at all,” he answered; “there are "
    "gulls, the radio, and a cat who disapproves of everything.” Then he showed them the lens: "
    "a tower of glass prisms, taller than a grown man, which turned once every twelve seconds and "
    "could be seen from eighteen miles away."
)
# Without fractions: transformers drops the digit splitting from SmolLM2's GGUF vocabulary, which
# shows in the likes of " ½" only.
TRICKY = [
    "  lead",
    "don't stop",
    "def f(x):\n    return x**2\n\n\n",
    "Ünïcode 🐶",
    "1234567 a1b2",
]


PROMPTS = [
    "In the middle of the night",
    "The recipe begins with",
    "def fibonacci(n):\n",
    "It is well known that",
]
# Where the two most likely tokens are nearer than this, rounding in float32 may choose: the logits
# of both sides differ by up to 1e-4 at a scale of 40. On these prompts the least gap is 4e-3.
TIE = 1e-3


@dataclass
class Real:
    name: str
    ours: Any
    theirs: Any
    tokenizer: Any


@pytest.fixture(scope="module", params=["smollm2-135m-instruct", "gemma-3-270m"])
def real(request):
    path = assets.fetch(request.param)
    folder, file = path.parent, path.name
    theirs = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    # These models are large enough for optimised code to pay.
    jax.config.update("jax_disable_most_optimizations", False)
    yield Real(request.param, load_model(request.param), theirs.eval(), tokenizer)
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.download
def test_tokens_predictions_and_perplexity_equal_transformers(real):
    ours = real.ours
    texts = [TEXT, *TRICKY]
    rows = ours.tokenizer.encode_batch(texts)
    assert rows == real.tokenizer(texts).input_ids
    ids = rows[0]
    site = "blocks.5.hook_resid_post"
    tokens = np.array([ids], np.int32)
    logits, acts = ours(tokens, np.ones(tokens.shape, bool), taps=[site])
    with torch.no_grad():
        out = real.theirs(torch.tensor([ids]), output_hidden_states=True)
    expected, got = out.logits[0].numpy(), np.asarray(logits[0])
    assert (expected.argmax(-1) == got.argmax(-1)).mean() >= 0.99

    def perplexity(values):
        log_p = np.asarray(jax.nn.log_softmax(values[:-1].astype(np.float32), axis=-1))
        return np.exp(-log_p[np.arange(len(ids) - 1), ids[1:]].mean())

    assert perplexity(got) == pytest.approx(perplexity(expected), rel=0.01)
    assert perplexity(got) < 40
    np.testing.assert_allclose(got, expected, atol=1e-3 * np.abs(expected).max())
    stream = out.hidden_states[6][0].numpy()
    np.testing.assert_allclose(np.asarray(acts[site][0]), stream, atol=1e-4 * np.abs(stream).max())


@pytest.mark.download
def test_a_hundred_greedy_tokens_equal_transformers(real):
    """Batched prompts of unlike length against one prompt at a time."""
    new: dict[int, list[int]] = {i: [] for i in range(len(PROMPTS))}
    generate(
        real.ours,
        PROMPTS,
        max_new_tokens=100,
        on_token=lambda text, token, _: new[text].append(token),
    )
    for prompt, mine in zip(PROMPTS, new.values(), strict=True):
        ids = torch.tensor([real.tokenizer(prompt).input_ids])
        with torch.no_grad():
            out = real.theirs.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=100,
                do_sample=False,
                eos_token_id=real.ours.tokenizer.eos_id,
                return_dict_in_generate=True,
                output_logits=True,
            )
        theirs = out.sequences[0, ids.shape[1] :].tolist()
        best = torch.stack([row[0].topk(2).values for row in out.logits])
        assert float((best[:, 0] - best[:, 1]).min()) > TIE, "a tie: the texts may differ here"
        assert mine == theirs[: len(mine)]
        assert len(mine) == 100 or theirs[len(mine) :] == [real.ours.tokenizer.eos_id]
