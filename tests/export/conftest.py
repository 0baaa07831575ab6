"""Two tiny models on both sides, and a translation of each."""

import jax
import numpy as np
import pytest

from atlas_jax.models import load_model
from atlas_jax.translate import Translation


@pytest.fixture(scope="package", autouse=True)
def quick_compilation():
    """Compiling is most of the time of these tests, and their models are tiny."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="package")
def models(tiny_llama, tiny_gemma3):
    """Ours, by family."""
    return {"llama": load_model(tiny_llama), "gemma3": load_model(tiny_gemma3)}


@pytest.fixture(scope="package")
def theirs(tiny_llama, tiny_gemma3):
    """The same in transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    return {
        name: AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32
        ).eval()
        for name, folder in {"llama": tiny_llama, "gemma3": tiny_gemma3}.items()
    }


@pytest.fixture(scope="package")
def translation():
    """From 56 neurons to 40 atlas features, two of which are dead."""
    matrix = np.random.default_rng(3).standard_normal((56, 40)).astype(np.float32)
    matrix[:, [4, 9]] = 0
    meta = {
        "subject": {"model": "tiny", "site": "blocks.1.mlp.hook_post"},
        "atlas": {"model": "small atlas", "site": "blocks.0.hook_resid_post.hook_sae_acts_post"},
        "n": 90,
        "options": {"rank": 5},
    }
    return Translation("procrustes", matrix, meta)


@pytest.fixture(scope="package")
def ids(models, sentences):
    """One text as tokens."""
    return models["llama"].tokenizer.encode_batch([sentences[1]])[0]
