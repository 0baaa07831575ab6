"""Tiny checkpoints of every family, loaded by this project and by transformers with hooks."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import pytest

_spec = importlib.util.spec_from_file_location(
    "goldens_recipe", Path(__file__).parent / "goldens" / "recipe.py"
)
_recipe = importlib.util.module_from_spec(_spec)
sys.modules["goldens_recipe"] = _recipe
_spec.loader.exec_module(_recipe)

TINY = ("tiny_llama", "tiny_llama_tied", "tiny_gemma3")
# Where blocks differ: what lies between the layers, and the names of their parts.
LAYERS = {"gemma3": "model.language_model.layers", "gpt2": "transformer.h"}
LAYERS["gpt_neox"] = "gpt_neox.layers"
PARTS = {
    "gpt2": {"attn": "attn", "o": "attn.c_proj", "mid": "ln_2", "down": "mlp.c_proj"},
    "gpt_neox": {"attn": "attention", "o": "attention.dense", "down": "mlp.dense_4h_to_h"},
    "olmo2": {"mid": "mlp"},
}
POST_NORMS = ("gemma2", "gemma3", "gemma3_text", "olmo2")


@dataclass
class Torch:
    """A transformers model in float32 with eager attention, and what is read at each site."""

    model: Any

    def sites(self) -> dict[str, tuple[Any, str]]:
        """Site -> the module and whether its input or its output is the site."""
        found = {}
        family = self.model.config.model_type
        post = family in POST_NORMS
        names = {
            "o": "self_attn.o_proj",
            "down": "mlp.down_proj",
            "mid": "pre_feedforward_layernorm" if post else "post_attention_layernorm",
            **PARTS.get(family, {}),
        }
        for i, layer in enumerate(self.model.get_submodule(LAYERS.get(family, "model.layers"))):
            o, down, mid = (layer.get_submodule(names[key]) for key in ("o", "down", "mid"))
            points = {
                "hook_resid_pre": (layer, "input"),
                "attn.hook_z": (o, "input"),
                "hook_attn_out": (layer.post_attention_layernorm if post else o, "output"),
                "hook_resid_mid": (mid, "input"),
                "mlp.hook_post": (down, "input"),
                "hook_mlp_out": (layer.post_feedforward_layernorm if post else down, "output"),
                "hook_resid_post": (layer, "output"),
            }
            if getattr(self.model.config, "use_parallel_residual", False):
                del points["hook_resid_mid"]
            found |= {f"blocks.{i}.{point}": where for point, where in points.items()}
        return found

    def run(self, ids: list[int], change: dict[str, Any] | None = None):
        """Logits (T, V) and {site: (T, d)} of one unpadded text.

        `change` maps a site to a function of its activations (1, T, d).
        """
        import torch

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
def recipe() -> Any:
    """How goldens are made and read."""
    return _recipe


@pytest.fixture(scope="session")
def checkpoint(
    request: pytest.FixtureRequest, tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
):
    """The folder of a tiny checkpoint: a fixture of that name, or a golden."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name in TINY:
            return request.getfixturevalue(name)
        if name not in made:
            folder = _recipe.write_checkpoint(_recipe.read(name), tmp_path_factory.mktemp(name))
            made[name] = Path(shutil.copytree(tiny_tokenizer, folder, dirs_exist_ok=True))
        return made[name]

    return get


@pytest.fixture(scope="session")
def pairs(checkpoint):
    """Loads a pair by the name of its checkpoint, once."""
    import torch
    from transformers import AutoModelForCausalLM

    from atlas_jax.models import load_model

    made: dict[str, Pair] = {}

    def get(name: str) -> Pair:
        if name not in made:
            folder = checkpoint(name)
            theirs = AutoModelForCausalLM.from_pretrained(
                folder, attn_implementation="eager", dtype=torch.float32
            )
            made[name] = Pair(folder, load_model(folder), Torch(theirs.eval()))
        return made[name]

    return get


@pytest.fixture(params=TINY)
def pair(request: pytest.FixtureRequest, pairs) -> Pair:
    """Each of the checkpoints that the other tests use, in turn."""
    return pairs(request.param)


@pytest.fixture(params=_recipe.names())
def family_pair(request: pytest.FixtureRequest, pairs) -> Pair:
    """A checkpoint of each family and of each of its variants, in turn."""
    return pairs(request.param)


@pytest.fixture(params=_recipe.names())
def golden(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Each golden, as read from its file."""
    return {"name": request.param, **_recipe.read(request.param)}
