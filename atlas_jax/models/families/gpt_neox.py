"""GPT-NeoX (Pythia): attention and MLP side by side, a part of each head rotated, LayerNorm."""

from __future__ import annotations

from atlas_jax.models.arch import Arch, AttentionKind
from atlas_jax.models.config import Config, rope_from
from atlas_jax.models.families.family import Family
from atlas_jax.models.names import Names, Part


def _read(get: Config) -> Arch:
    heads, width, layers = (
        get(key) for key in ("num_attention_heads", "hidden_size", "num_hidden_layers")
    )
    bias = get("attention_bias", True)
    rope = rope_from(
        get("rope_parameters", get("rope_scaling", {})),
        float(get("rotary_emb_base", 10000.0)),
        float(get("rotary_pct", 0.25)),
    )
    return Arch(
        family="gpt_neox",
        vocab_size=get("vocab_size"),
        d_model=width,
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=heads,
        d_head=width // heads,
        d_mlp=get("intermediate_size"),
        activation=get.activation("hidden_act", "gelu"),
        norm_eps=get("layer_norm_eps", 1e-5),
        kinds=(AttentionKind(rope),),
        layer_kinds=(0,) * layers,
        attn_scale=(width // heads) ** -0.5,
        norm="layer",
        parallel=get("use_parallel_residual", True),
        gated=False,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=True,
        tied=get("tie_word_embeddings", False),
        context_length=get("max_position_embeddings", 2048),
    )


def _names(arch: Arch) -> Names:
    width, head = arch.d_model, arch.d_head
    layer = "gpt_neox.layers.{}."
    names: dict[str, str | Part] = {
        "embed": "gpt_neox.embed_in.weight",
        "head.kernel": "embed_out.weight",
    }
    for kernel, weight in (("kernel", "weight"), ("bias", "bias")):
        if kernel == "kernel" or arch.qkv_bias:
            fused = f"{layer}attention.query_key_value.{weight}"
            for i, p in enumerate("qkv"):
                # Each head has its q, k and v beside each other.
                part = Part(fused, 3 * width, i * head, head, 3 * head)
                names[f"blocks.attn.{p}.{kernel}"] = part
            names[f"blocks.attn.o.{kernel}"] = f"{layer}attention.dense.{weight}"
        names |= {
            f"blocks.up.{kernel}": f"{layer}mlp.dense_h_to_4h.{weight}",
            f"blocks.down.{kernel}": f"{layer}mlp.dense_4h_to_h.{weight}",
            f"blocks.norm_attn.{weight}": f"{layer}input_layernorm.{weight}",
            f"blocks.norm_mlp.{weight}": f"{layer}post_attention_layernorm.{weight}",
            f"norm.{weight}": f"gpt_neox.final_layer_norm.{weight}",
        }
    return names


GPT_NEOX = Family(
    _read,
    _names,
    renames={
        "lm_head.": "embed_out.",
        "embed_in.": "gpt_neox.embed_in.",
        "layers.": "gpt_neox.layers.",
        "final_layer_norm.": "gpt_neox.final_layer_norm.",
    },
    ignored=r".*\.attention\.((masked_)?bias|rotary_emb\.inv_freq)",
)
