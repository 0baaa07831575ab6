"""Settings of every test, and two tiny checkpoints with a tokenizer, made by transformers."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import jax
import pytest
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintException
from hypothesis import settings
from jaxtyping import install_import_hook

_CONF = BeartypeConf(is_pep484_tower=True)  # an int is a float, as for pyright


def _checked(function):
    """Checks a function's annotations, unless they hold what cannot be checked on one method alone.

    That is `Self`, and protocols that are not runtime checkable; arrays' shapes always can.
    """
    try:
        return beartype(function, conf=_CONF)
    except BeartypeDecorHintException:
        return function


# The import hook takes its checker by name only.
_checker = ModuleType("atlas_jax_checker")
_checker.check = _checked
sys.modules["atlas_jax_checker"] = _checker

jax.config.update("jax_num_cpu_devices", 8)  # what is sharded must equal what is not
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Before any test imports the package: every annotated shape is checked at run time.
install_import_hook("atlas_jax", "atlas_jax_checker.check")

# The same cases in every run; `--hypothesis-profile default` draws new ones.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")

SENTENCES = (
    "The grey cat slept on the warm stones of the garden wall.",
    "Two dogs ran along the river, and the children ran after them.",
    "London lies on the Thames; in winter the fog comes up from the water.",
    "She wrote the answer, 42, on the board and underlined it twice.",
    "A recipe needs flour, butter, sugar and a little patience.",
    "The telescope showed four moons around the distant planet.",
)
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@pytest.fixture(scope="session")
def sentences() -> tuple[str, ...]:
    """Texts of different lengths, which the tiny tokenizer was trained on."""
    return SENTENCES


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a byte-level BPE tokenizer that puts `<bos>` before each text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<pad>", "<bos>", "<eos>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(SENTENCES, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    ).save_pretrained(folder)
    return folder


def _checkpoint(config, tokenizer: Path, folder: Path, offset: float) -> Path:
    """A random model whose norms, attention patterns and logits are all far from trivial."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.copy_(offset + 0.2 * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) / parameter.shape[1] ** 0.5)
    model.save_pretrained(folder)
    return folder


def _sizes(tokenizer: Path, **more):
    from transformers import AutoTokenizer

    return {
        "vocab_size": len(AutoTokenizer.from_pretrained(tokenizer)),
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **more,
    }


@pytest.fixture(scope="session")
def tiny_llama(tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 layers, grouped queries, Llama 3.1's RoPE scaling, logits from a matrix of their own."""
    from transformers import LlamaConfig

    rope = {"rope_theta": 10000.0, **LLAMA3_SCALING}
    sizes = _sizes(tiny_tokenizer, num_hidden_layers=3, tie_word_embeddings=False)
    config = LlamaConfig(**sizes, rope_parameters=rope)
    return _checkpoint(config, tiny_tokenizer, tmp_path_factory.mktemp("llama"), 1.0)


@pytest.fixture(scope="session")
def tiny_llama_tied(tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 layers, plain RoPE, heads wider than d_model / n_heads, logits from the embedding."""
    from transformers import LlamaConfig

    sizes = _sizes(tiny_tokenizer, num_hidden_layers=2, tie_word_embeddings=True, head_dim=12)
    rope = {"rope_type": "default", "rope_theta": 5000.0}
    config = LlamaConfig(**sizes, rope_parameters=rope)
    return _checkpoint(config, tiny_tokenizer, tmp_path_factory.mktemp("llama-tied"), 1.0)


@pytest.fixture(scope="session")
def tiny_gemma3(tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 layers, windows of 6 tokens in three of them, and two kinds of RoPE."""
    from transformers import Gemma3TextConfig

    sizes = _sizes(
        tiny_tokenizer,
        num_hidden_layers=4,
        head_dim=16,
        sliding_window=6,
        query_pre_attn_scalar=20,
        layer_types=["sliding_attention", "full_attention"] + 2 * ["sliding_attention"],
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 50000.0},
        },
    )
    config = Gemma3TextConfig(**sizes)
    return _checkpoint(config, tiny_tokenizer, tmp_path_factory.mktemp("gemma3"), 0.0)
