"""Each tiny checkpoint loaded twice: by this project, and by transformers with hooks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import pytest
import torch

NAMES = ("tiny_llama", "tiny_llama_tied", "tiny_gemma3")


@dataclass
class Torch:
    """A transformers model in float32 with eager attention, and what is read at each site."""

    model: Any

    def sites(self) -> dict[str, tuple[Any, str]]:
        """Site -> the module and whether its input or its output is the site."""
        found = {}
        gemma = self.model.config.model_type == "gemma3_text"
        for i, layer in enumerate(self.model.model.layers):
            norm = layer.pre_feedforward_layernorm if gemma else layer.post_attention_layernorm
            attn = layer.post_attention_layernorm if gemma else layer.self_attn.o_proj
            mlp = layer.post_feedforward_layernorm if gemma else layer.mlp.down_proj
            points = {
                "hook_resid_pre": (layer, "input"),
                "attn.hook_z": (layer.self_attn.o_proj, "input"),
                "hook_attn_out": (attn, "output"),
                "hook_resid_mid": (norm, "input"),
                "mlp.hook_post": (layer.mlp.down_proj, "input"),
                "hook_mlp_out": (mlp, "output"),
                "hook_resid_post": (layer, "output"),
            }
            found |= {f"blocks.{i}.{point}": where for point, where in points.items()}
        return found

    def run(self, ids: list[int], change: dict[str, Any] | None = None):
        """Logits (T, V) and {site: (T, d)} of one unpadded text.

        `change` maps a site to a function of its activations (1, T, d).
        """
        seen, handles = {}, []

        def install(site: str, module: Any, side: str) -> None:
            function = (change or {}).get(site, lambda value: value)

            def before(_module, inputs):
                # In place, because the residual stream is this very tensor.
                inputs[0].copy_(function(inputs[0]))
                seen[site] = inputs[0][0].numpy().copy()

            def after(_module, _inputs, output):
                value = output[0] if isinstance(output, tuple) else output
                value = function(value)
                seen[site] = value[0].numpy().copy()
                return (value, *output[1:]) if isinstance(output, tuple) else value

            register = (
                module.register_forward_pre_hook
                if side == "input"
                else module.register_forward_hook
            )
            handles.append(register(before if side == "input" else after))

        for site, (module, side) in self.sites().items():
            install(site, module, side)
        try:
            with torch.no_grad():
                logits = self.model(torch.tensor([ids])).logits[0].numpy()
        finally:
            for handle in handles:
                handle.remove()
        return logits, seen


@dataclass
class Pair:
    """One checkpoint on both sides."""

    folder: Path
    ours: Any
    theirs: Torch


@pytest.fixture(scope="package", autouse=True)
def quick_compilation():
    """Compiling is most of the time of these tests, and their models are tiny."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def pairs(request: pytest.FixtureRequest):
    """Loads a pair by the name of its checkpoint, once."""
    from transformers import AutoModelForCausalLM

    from atlas_jax.models import load_model

    made: dict[str, Pair] = {}

    def get(name: str) -> Pair:
        if name not in made:
            folder = request.getfixturevalue(name)
            theirs = AutoModelForCausalLM.from_pretrained(
                folder, attn_implementation="eager", dtype=torch.float32
            )
            made[name] = Pair(folder, load_model(folder), Torch(theirs.eval()))
        return made[name]

    return get


@pytest.fixture(params=NAMES)
def pair(request: pytest.FixtureRequest, pairs) -> Pair:
    """Each checkpoint in turn."""
    return pairs(request.param)
