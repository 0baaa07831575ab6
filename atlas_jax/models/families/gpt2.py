"""GPT-2: learned positions, LayerNorm, a plain MLP, biases everywhere, q, k and v in one tensor."""

from __future__ import annotations

from atlas_jax.errors import InputError
from atlas_jax.models.arch import Arch, AttentionKind
from atlas_jax.models.config import Config
from atlas_jax.models.families.family import Family
from atlas_jax.models.names import Names, Part


def _read(get: Config) -> Arch:
    width, heads, layers = get("n_embd", 768), get("n_head", 12), get("n_layer", 12)
    if width % heads:
        raise InputError(f"Expected n_embd to be a multiple of n_head, got {width} and {heads}.")
    get.must_be("scale_attn_weights", True)
    get.must_be("scale_attn_by_inverse_layer_idx", False)
    get.must_be("add_cross_attention", False)
    get("reorder_and_upcast_attn", False)  # the same numbers in another order
    positions = get("n_positions", 1024)
    return Arch(
        family="gpt2",
        vocab_size=get("vocab_size", 50257),
        d_model=width,
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=heads,
        d_head=width // heads,
        d_mlp=get("n_inner", 4 * width),
        activation=get.activation("activation_function", "gelu_new"),
        norm_eps=get("layer_norm_epsilon", 1e-5),
        kinds=(AttentionKind(None),),
        layer_kinds=(0,) * layers,
        attn_scale=(width // heads) ** -0.5,
        norm="layer",
        gated=False,
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        positions=positions,
        tied=get("tie_word_embeddings", True),
        context_length=positions,
    )


def _names(arch: Arch) -> Names:
    width = arch.d_model
    names: dict[str, str | Part] = {
        "embed": "transformer.wte.weight",
        "positions": "transformer.wpe.weight",
        "head.kernel": "lm_head.weight",
    }
    for kernel, weight in (("kernel", "weight"), ("bias", "bias")):
        fused = f"transformer.h.{{}}.attn.c_attn.{weight}"
        for i, p in enumerate("qkv"):
            names[f"blocks.attn.{p}.{kernel}"] = Part(fused, 3 * width, i * width)
        names |= {
            f"blocks.attn.o.{kernel}": f"transformer.h.{{}}.attn.c_proj.{weight}",
            f"blocks.up.{kernel}": f"transformer.h.{{}}.mlp.c_fc.{weight}",
            f"blocks.down.{kernel}": f"transformer.h.{{}}.mlp.c_proj.{weight}",
            f"blocks.norm_attn.{weight}": f"transformer.h.{{}}.ln_1.{weight}",
            f"blocks.norm_mlp.{weight}": f"transformer.h.{{}}.ln_2.{weight}",
            f"norm.{weight}": f"transformer.ln_f.{weight}",
        }
    return names


GPT2 = Family(
    _read,
    _names,
    transposed=False,
    renames={part: f"transformer.{part}" for part in ("wte.", "wpe.", "h.", "ln_f.")},
    ignored=r".*\.attn\.(masked_)?bias",
)
