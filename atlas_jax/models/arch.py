"""The shape of a decoder: everything static about it, as one hashable value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding of one kind of layer.

    Attributes:
        theta: base of the frequencies theta^(-2i/d).
        kind: `default`, `linear` (all frequencies divided by `factor`) or `llama3`.
        factor, low_factor, high_factor, original_length: the constants of the Llama 3.1 scaling,
            as named in its config (`low_freq_factor`, ..., `original_max_position_embeddings`).
        fraction: the share of each head, from its first dimension on, that is rotated.
    """

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low_factor: float = 1.0
    high_factor: float = 4.0
    original_length: int = 8192
    fraction: float = 1.0


@dataclass(frozen=True)
class AttentionKind:
    """What differs between the layers of one model.

    Attributes:
        rope: rotary constants; None where positions are learned.
        window: how many tokens a query sees, itself included; None: all before it.
    """

    rope: Rope | None
    window: int | None = None


@dataclass(frozen=True)
class Arch:
    """Everything static about a decoder; hashable, so that it can be a static argument of `jit`.

    Attributes:
        family: the `model_type` of the config.
        layer_kinds: for each layer, an index into `kinds`.
        attn_scale: factor on q'k.
        norm: `rms` (RMSNorm) or `layer` (LayerNorm with a bias).
        norm_offset: added to the RMSNorm weight (1 for Gemma, whose weights are stored minus one).
        pre_norms: a norm before attention and before the MLP (all but OLMo 2).
        post_norms: a norm after attention and after the MLP (Gemma 2 and 3, OLMo 2).
        qk_norm: RMSNorm on q and k over each `head`, over `all` heads together, or none.
        parallel: attention and MLP both read the block's input (GPT-NeoX).
        gated: the MLP is down(act(gate(x)) * up(x)) rather than down(act(up(x))).
        qkv_bias, o_bias, mlp_bias: biases of these projections.
        positions: rows of the table of learned positions; 0: none.
        embed_scale: factor on the token embeddings (sqrt(d_model) for Gemma).
        attn_softcap, logit_softcap: c of c tanh(x / c), on attention scores and on logits.
        tied: logits come from the embedding matrix.
        context_length: tokens that the model was made for.
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
    norm: str = "rms"
    norm_offset: float = 0.0
    pre_norms: bool = True
    post_norms: bool = False
    qk_norm: str | None = None
    parallel: bool = False
    gated: bool = True
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    positions: int = 0
    embed_scale: float = 1.0
    attn_softcap: float | None = None
    logit_softcap: float | None = None
    tied: bool = True
    context_length: int = 2048

    @property
    def d_rotary(self) -> int:
        """Dimensions of a head that are rotated."""
        rope = self.kinds[0].rope
        return int(self.d_head * rope.fraction) if rope else 0
