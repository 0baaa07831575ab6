"""Reading a `config.json`: what a family asks for by name, and refusal of the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from atlas_jax.errors import InputError
from atlas_jax.models.arch import AttentionKind, Rope

# Attributes that say nothing about the numbers a forward pass computes.
HARMLESS = frozenset(
    """
    _name_or_path _num_labels architectures attention_dropout attention_probs_dropout_prob
    attn_pdrop auto_map bos_token_id cache_implementation chunk_size_feed_forward
    classifier_dropout decoder_start_token_id dtype embd_pdrop eos_token_id finetuning_task
    hidden_dropout hidden_dropout_prob id2label initializer_range is_decoder is_encoder_decoder
    is_llama_config keys_to_ignore_at_inference label2id mlp_dropout model_type n_ctx
    output_attentions output_hidden_states output_past pad_token_id pretraining_tp problem_type
    resid_pdrop return_dict rope_interleaved summary_activation summary_first_dropout
    summary_proj_to_labels summary_type summary_use_proj task_specific_params tokenizer_class
    torch_dtype transformers.js_config transformers_version unsloth_fixed unsloth_version use_cache
    use_return_dict
    """.split()
)

_LAYERS = ("num_hidden_layers", "n_layer")
"""Checked when they are asked for: something is made for each layer."""
_MOST_LAYERS = 4096

ACTIVATION_NAMES = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


class Config:
    """Hands out a config's values and remembers which were asked for, to refuse the rest.

    Where a key is absent, transformers takes the default of its config class, and so does a family
    here; `null` may mean something else than absence.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values
        self.read: set[str] = set()

    @property
    def family(self) -> str:
        """The `model_type`."""
        return str(self.values.get("model_type"))

    def __call__(self, key: str, default: Any = ...) -> Any:
        """A value; the default where it is absent or null.

        Raises:
            InputError: it is absent and there is no default.
        """
        self.read.add(key)
        value = self.values.get(key)
        if value is None:
            if default is ...:
                raise InputError(
                    f"Expected '{key}' in the config of a {self.family} model, found none. Is "
                    "this a complete config.json?"
                )
            return default
        if key in _LAYERS and not (type(value) is int and 0 < value <= _MOST_LAYERS):
            raise InputError(f"Expected {key} from 1 to {_MOST_LAYERS}, got {value!r}.")
        return value

    def optional(self, key: str, default: Any) -> Any:
        """A value that may be null; the default only where it is absent."""
        self.read.add(key)
        return self.values.get(key, default)

    def must_be(self, key: str, *allowed: Any) -> None:
        """Accepts `key` only where it is absent or asks for nothing beyond what is implemented."""
        self.read.add(key)
        value = self.values.get(key)
        if value is not None and value not in allowed:
            known = f"knows {', '.join(map(repr, allowed))}" if allowed else "knows none"
            raise InputError(
                f"The config asks for {key}={value!r}, which this decoder does not implement for "
                f"{self.family} (it {known}). Use another checkpoint."
            )

    def activation(self, key: str, default: str) -> str:
        """The MLP's activation function, under the name `decoder.ACTIVATIONS` has for it."""
        self.must_be(key, *ACTIVATION_NAMES)
        return ACTIVATION_NAMES[self(key, default)]

    def finish(self) -> None:
        """Refuses what was neither asked for nor is known to be harmless."""
        unknown = sorted(
            key
            for key, value in self.values.items()
            if key not in self.read and key not in HARMLESS and value is not None
        )
        if unknown:
            raise InputError(
                f"The config of this {self.family} model has attributes this decoder does not "
                f"know: {', '.join(unknown)}. Refused rather than ignored: they may change the "
                "numbers."
            )


_ROPE_NEEDS = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "llama3": frozenset(
        {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}
    ),
}


def rope_from(
    parameters: Mapping[str, Any],
    theta: float = 10000.0,
    fraction: float | None = None,
    kinds: Sequence[str] = tuple(_ROPE_NEEDS),
) -> Rope:
    """Reads one `rope_parameters` (transformers 5) or `rope_scaling` (older) dictionary.

    Args:
        parameters: the dictionary.
        theta: the base, where the dictionary names none.
        fraction: the rotated share of a head, where the dictionary names none; None: the family
            rotates whole heads, and a share is refused.
        kinds: the RoPE types of the family.
    """
    given = {key: value for key, value in parameters.items() if value is not None}
    old_kind = given.pop("type", "default")
    kind = given.pop("rope_type", old_kind)
    if kind not in kinds:
        raise InputError(
            f"The config asks for RoPE type '{kind}'; this decoder knows {', '.join(kinds)}. Use "
            "another checkpoint."
        )
    base = float(given.pop("rope_theta", theta))
    share = 1.0
    if fraction is not None:
        share = float(given.pop("partial_rotary_factor", fraction))
    if absent := sorted(_ROPE_NEEDS[kind] - set(given)):
        raise InputError(
            f"Expected {', '.join(absent)} among the RoPE parameters of type '{kind}', found none. "
            "Is this a complete config.json?"
        )
    # A factor has no meaning without a scaling, and older files name one all the same.
    if unknown := sorted(set(given) - _ROPE_NEEDS[kind] - {"factor"}):
        raise InputError(
            f"The RoPE parameters of this model have entries this decoder does not know: "
            f"{', '.join(unknown)}."
        )
    if kind == "default":
        return Rope(base, fraction=share)
    if kind == "linear":
        return Rope(base, "linear", float(given["factor"]), fraction=share)
    return Rope(
        base,
        "llama3",
        float(given["factor"]),
        float(given["low_freq_factor"]),
        float(given["high_freq_factor"]),
        int(given["original_max_position_embeddings"]),
        share,
    )


def read_rope(get: Config, theta: float = 10000.0) -> Rope:
    """The one RoPE of a family that rotates whole heads."""
    theta = float(get("rope_theta", theta))
    return rope_from(get("rope_parameters", get("rope_scaling", {})), theta)


def mixed_layers(
    types: Sequence[str], layers: int, sliding: AttentionKind, full: AttentionKind
) -> tuple[tuple[AttentionKind, ...], tuple[int, ...]]:
    """The kinds of layers that occur, and which of them each layer is.

    Args:
        types: the config's `layer_types`.
        layers: their number.
        sliding: what `sliding_attention` means.
        full: what `full_attention` means.
    """
    names = {"sliding_attention": sliding, "full_attention": full}
    if len(types) != layers or not set(types) <= set(names):
        raise InputError(
            f"Expected layer_types of {layers} layers, each {' or '.join(names)}, got "
            f"{len(types)} of {', '.join(sorted(set(types)))}. Use another checkpoint."
        )
    if "sliding_attention" in types and sliding.window is None:
        raise InputError(
            "Expected 'sliding_window' in a config whose layer_types name sliding_attention, "
            "found none. Is this a complete config.json?"
        )
    used = [name for name in names if name in types]
    return tuple(names[name] for name in used), tuple(used.index(name) for name in types)
