"""Real checkpoints against transformers' own reading of the same GGUF files."""

import jax
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from atlas_jax import assets
from atlas_jax.models import load_model

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


@pytest.mark.download
@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "gemma-3-270m"])
def test_tokens_predictions_and_perplexity_equal_transformers(name):
    path = assets.fetch(name)
    folder, file = path.parent, path.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    ours = load_model(name)
    texts = [TEXT, *TRICKY]
    rows = ours.tokenizer.encode_batch(texts)
    assert rows == tokenizer(texts).input_ids
    ids = rows[0]
    site = "blocks.5.hook_resid_post"
    tokens = np.array([ids], np.int32)
    logits, acts = ours(tokens, np.ones(tokens.shape, bool), taps=[site])
    theirs = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    with torch.no_grad():
        out = theirs.eval()(torch.tensor([ids]), output_hidden_states=True)
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
