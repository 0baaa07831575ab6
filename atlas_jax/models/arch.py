"""The shape of a decoder, from a Hugging Face `config.json`; what it does not know is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from atlas_jax.errors import InputError


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding of one kind of layer.

    Attributes:
        theta: base of the frequencies theta^(-2i/d).
        kind: `default`, `linear` (all frequencies divided by `factor`) or `llama3`.
        factor, low_factor, high_factor, original_length: the constants of the Llama 3.1 scaling,
            as named in its config (`low_freq_factor`, ..., `original_max_position_embeddings`).
    """

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low_factor: float = 1.0
    high_factor: float = 4.0
    original_length: int = 8192


@dataclass(frozen=True)
class AttentionKind:
    """What differs between the layers of one model: rotary constants and window (None: global)."""

    rope: Rope
    window: int | None = None


@dataclass(frozen=True)
class Arch:
    """Everything static about a decoder; hashable, so that it can be a static argument of `jit`.

    Attributes:
        family: the `model_type` of the config.
        layer_kinds: for each layer, an index into `kinds`.
        norm_offset: added to the RMSNorm weight (1 for Gemma, whose weights are stored minus one).
        embed_scale: factor on the token embeddings (sqrt(d_model) for Gemma).
        attn_scale: factor on q'k.
        qk_norm: RMSNorm over each head of q and k.
        post_norms: a second norm after attention and after the MLP (Gemma 2 and 3).
        tied: logits come from the embedding matrix.
    """

    family: str
    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_mlp: int
    activation: str
    norm_eps: float
    kinds: tuple[AttentionKind, ...]
    layer_kinds: tuple[int, ...]
    attn_scale: float
    norm_offset: float = 0.0
    embed_scale: float = 1.0
    qk_norm: bool = False
    post_norms: bool = False
    tied: bool = True
    context_length: int = 2048


# Attributes that say nothing about the numbers a forward pass computes.
HARMLESS = frozenset(
    """
    _name_or_path architectures attention_dropout auto_map bos_token_id cache_implementation
    chunk_size_feed_forward decoder_start_token_id dtype eos_token_id finetuning_task id2label
    initializer_range is_decoder is_encoder_decoder label2id mlp_dropout model_type
    output_attentions output_hidden_states pad_token_id pretraining_tp problem_type return_dict
    tokenizer_class torch_dtype transformers_version use_cache use_return_dict is_llama_config
    rope_interleaved unsloth_fixed
    """.split()
)


class _Reader:
    """Hands out config values and remembers which were asked for, to refuse the rest."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.read: set[str] = set()

    def __call__(self, key: str, default: Any = ...) -> Any:
        self.read.add(key)
        value = self.config.get(key)
        if value is None:
            if default is ...:
                raise InputError(
                    f"Expected '{key}' in the config of a {self.config.get('model_type')} model, "
                    "found none. Is this a complete config.json?"
                )
            return default
        return value

    def must_be(self, key: str, *allowed: Any) -> None:
        """Accepts `key` only where it is absent or asks for nothing beyond what is implemented."""
        self.read.add(key)
        value = self.config.get(key)
        if value is not None and value not in allowed:
            raise InputError(
                f"The config asks for {key}={value!r}, which this decoder does not implement "
                f"(it knows {', '.join(map(repr, allowed))}). Use another checkpoint."
            )

    def finish(self) -> None:
        unknown = sorted(
            key
            for key, value in self.config.items()
            if key not in self.read and key not in HARMLESS and value is not None
        )
        if unknown:
            raise InputError(
                f"The config of this {self.config.get('model_type')} model has attributes this "
                f"decoder does not know: {', '.join(unknown)}. Refused rather than ignored: "
                "they may change the numbers."
            )


_ROPE_NEEDS = {
    "linear": frozenset({"factor"}),
    "llama3": frozenset(
        {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}
    ),
}


def _rope(parameters: Mapping[str, Any], theta: float | None = None) -> Rope:
    """Reads one `rope_parameters` (transformers 5) or `rope_scaling` (older) dictionary."""
    given = {key: value for key, value in parameters.items() if value is not None}
    kind = given.pop("rope_type", given.pop("type", "default"))
    given.pop("type", None)
    base = float(given.pop("rope_theta", theta if theta is not None else 10000.0))
    if absent := sorted(_ROPE_NEEDS.get(kind, frozenset()) - set(given)):
        raise InputError(
            f"Expected {', '.join(absent)} among the RoPE parameters of type '{kind}', found none. "
            "Is this a complete config.json?"
        )
    if kind == "default":
        rope, known = Rope(base), set(given) & {"factor"}
    elif kind == "linear":
        rope, known = Rope(base, "linear", float(given["factor"])), _ROPE_NEEDS[kind]
    elif kind == "llama3":
        known = _ROPE_NEEDS[kind]
        rope = Rope(
            base,
            "llama3",
            float(given["factor"]),
            float(given["low_freq_factor"]),
            float(given["high_freq_factor"]),
            int(given["original_max_position_embeddings"]),
        )
    else:
        raise InputError(
            f"The config asks for RoPE type '{kind}'; this decoder knows default, linear and "
            "llama3. Use another checkpoint."
        )
    if unknown := sorted(set(given) - known):
        raise InputError(
            f"The RoPE parameters of this model have entries this decoder does not know: "
            f"{', '.join(unknown)}."
        )
    return rope


def _llama(get: _Reader) -> Arch:
    heads, width = get("num_attention_heads"), get("hidden_size")
    d_head = get("head_dim", width // heads)
    get.must_be("hidden_act", "silu")
    get.must_be("attention_bias", False)
    get.must_be("mlp_bias", False)
    theta = float(get("rope_theta", 10000.0))
    rope = _rope(get("rope_parameters", get("rope_scaling", {})), theta)
    layers = get("num_hidden_layers")
    return Arch(
        family="llama",
        vocab_size=get("vocab_size"),
        d_model=width,
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=get("num_key_value_heads", heads),
        d_head=d_head,
        d_mlp=get("intermediate_size"),
        activation="silu",
        norm_eps=get("rms_norm_eps", 1e-6),
        kinds=(AttentionKind(rope),),
        layer_kinds=(0,) * layers,
        attn_scale=d_head**-0.5,
        tied=get("tie_word_embeddings", False),
        context_length=get("max_position_embeddings", 2048),
    )


def _gemma3(get: _Reader) -> Arch:
    width, layers = get("hidden_size"), get("num_hidden_layers")
    get.must_be("hidden_activation", "gelu_pytorch_tanh")
    get.must_be("hidden_act", "gelu_pytorch_tanh")
    get.must_be("attention_bias", False)
    get.must_be("attn_logit_softcapping")
    get.must_be("final_logit_softcapping")
    get.must_be("use_bidirectional_attention", False)
    pattern = get("sliding_window_pattern", get("_sliding_window_pattern", 6))
    types = get(
        "layer_types",
        [
            "full_attention" if (i + 1) % pattern == 0 else "sliding_attention"
            for i in range(layers)
        ],
    )
    names = {"sliding_attention": 0, "full_attention": 1}
    if len(types) != layers or not set(types) <= set(names):
        raise InputError(
            f"Expected layer_types of {layers} layers, each {' or '.join(names)}, got "
            f"{len(types)} of {', '.join(sorted(set(types)))}. Use another checkpoint."
        )
    ropes = get("rope_parameters", {})
    if ropes and set(ropes) != set(names):
        raise InputError(
            f"Expected rope_parameters for {' and '.join(names)}, got "
            f"{', '.join(sorted(ropes))}. Is this a complete config.json?"
        )
    if ropes:
        local, full = _rope(ropes["sliding_attention"]), _rope(ropes["full_attention"])
    else:
        local = Rope(float(get("rope_local_base_freq", 10000.0)))
        full = _rope(get("rope_scaling", {}), float(get("rope_theta", 1_000_000.0)))
    for key in ("rope_local_base_freq", "rope_theta", "rope_scaling"):
        get(key, None)
    kinds = (AttentionKind(local, get("sliding_window")), AttentionKind(full))
    return Arch(
        family="gemma3_text",
        vocab_size=get("vocab_size"),
        d_model=width,
        n_layers=layers,
        n_heads=get("num_attention_heads"),
        n_kv_heads=get("num_key_value_heads"),
        d_head=get("head_dim"),
        d_mlp=get("intermediate_size"),
        activation="gelu_tanh",
        norm_eps=get("rms_norm_eps", 1e-6),
        kinds=kinds,
        layer_kinds=tuple(names[t] for t in types),
        attn_scale=float(get("query_pre_attn_scalar", 256)) ** -0.5,
        norm_offset=1.0,
        embed_scale=float(width) ** 0.5,
        qk_norm=True,
        post_norms=True,
        tied=get("tie_word_embeddings", True),
        context_length=get("max_position_embeddings", 131072),
    )


FAMILIES: dict[str, Callable[[_Reader], Arch]] = {"llama": _llama, "gemma3_text": _gemma3}


def read_arch(config: Mapping[str, Any]) -> Arch:
    """Reads an `Arch` from the dictionary of a `config.json`.

    Raises:
        InputError: an unknown `model_type`, RoPE type, or any attribute that is neither handled
            nor known to be harmless. Silence would mean wrong numbers.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise InputError(
            f"Expected a model of family {', '.join(sorted(FAMILIES))}, got model_type={family!r}."
        )
    get = _Reader(config)
    arch = FAMILIES[family](get)
    get.finish()
    return arch
