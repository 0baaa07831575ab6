"""Scripts that steer a model of another library by the vectors of a safetensors file beside them.

They import nothing of this package, and read site, strength and mode from the file's header.
"""

from __future__ import annotations

_HEAD = '''"""Steers a model by the vectors in the safetensors file beside this one.

    python {name} MODEL "A prompt"

Needs {needs}. Written by atlas-jax; sites are named as in TransformerLens.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open

FILE = Path(__file__).with_suffix(".safetensors")


def load(file=FILE):
    """(site, vector, strength, mode) of each edit, first layers first."""
    with safe_open(file, framework="pt") as tensors:
        how = json.loads(tensors.metadata()["steering"])
        return [(e["site"], tensors.get_tensor(e["site"]), e["strength"], e["mode"]) for e in how]


def edit(acts, vector, strength, mode):
    """The edited activations; norms and products are taken in float32.

    steer: (a + k s) |a| / |a + k s|, add: a + k s, ablate: a - k (a.u) u, clamp: a + (k - a.u) u,
    with u = s / |s|.
    """
    a = acts.reshape(*acts.shape[:2], -1).float()
    s = vector.to(a)
    u = s / s.norm()
    along = (a @ u)[..., None]
    if mode == "ablate":
        a = a - strength * along * u
    elif mode == "clamp":
        a = a + (strength - along) * u
    else:
        moved = a + strength * s
        if mode == "steer":
            norm = moved.norm(dim=-1, keepdim=True)
            moved = moved * a.norm(dim=-1, keepdim=True) / norm.clamp_min(1e-30)
        a = moved
    return a.reshape(acts.shape).to(acts.dtype)
'''

_PLACE = '''

def place(model, site):
    """The name of the module that holds a site, and whether the site is its input or its output."""
    _, layer, point = site.split(".", 2)
    count = model.config.get_text_config().num_hidden_layers
    stack, blocks = next(
        (name, m)
        for name, m in model.named_modules()
        if isinstance(m, torch.nn.ModuleList) and len(m) == count
    )
    names = [name for name, _ in blocks[int(layer)].named_modules()]
    down = next(n for n in names if n.endswith(("down_proj", "mlp.c_proj", "dense_4h_to_h")))
    out = next(n for n in names if n.endswith(("o_proj", "attn.c_proj", "attention.dense")))
    # Gemma 2 and 3 and OLMo 2 have a norm after attention and after the MLP.
    post = "post_feedforward_layernorm" in names
    name, side = {
        "hook_resid_pre": ("", "input"),
        "attn.hook_z": (out, "input"),
        "hook_attn_out": ("post_attention_layernorm" if post else out, "output"),
        "mlp.hook_post": (down, "input"),
        "hook_mlp_out": ("post_feedforward_layernorm" if post else down, "output"),
        "hook_resid_post": ("", "output"),
    }[point]
    return f"{stack}.{layer}.{name}".rstrip("."), side
'''

_TRANSFORMER_LENS = '''

def hooks(file=FILE):
    """(hook name, function) pairs: model.run_with_hooks(tokens, fwd_hooks=hooks())."""
    return [
        (site, lambda acts, hook, rest=rest: edit(acts, *rest)) for site, *rest in load(file)
    ]


if __name__ == "__main__":
    from transformer_lens.model_bridge import TransformerBridge

    model = TransformerBridge.boot_transformers(sys.argv[1])
    with model.hooks(fwd_hooks=hooks()):
        print(model.generate(sys.argv[2], max_new_tokens=40, do_sample=False))
'''

_TRANSFORMERS = '''

def attach(model, file=FILE):
    """Hooks a transformers model; call remove() on each handle to undo."""
    handles = []
    for site, *rest in load(file):
        name, side = place(model, site)
        module = model.get_submodule(name)

        def before(module, inputs, rest=rest):
            return (edit(inputs[0], *rest), *inputs[1:])

        def after(module, inputs, output, rest=rest):
            if isinstance(output, tuple):
                return (edit(output[0], *rest), *output[1:])
            return edit(output, *rest)

        if side == "input":
            handles.append(module.register_forward_pre_hook(before))
        else:
            handles.append(module.register_forward_hook(after))
    return handles


if __name__ == "__main__":
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
    attach(model)
    tokens = tokenizer(sys.argv[2], return_tensors="pt")
    print(tokenizer.decode(model.generate(**tokens, max_new_tokens=40, do_sample=False)[0]))
'''

_NNSIGHT = '''

def steer(model, file=FILE):
    """Call inside model.trace(...), or for each step inside model.generate(...)."""
    for site, *rest in load(file):
        name, side = place(model._module, site)
        module = model.get(name)
        if side == "input":
            module.input = edit(module.input, *rest)
        elif isinstance(module.output, tuple):
            module.output = (edit(module.output[0], *rest), *module.output[1:])
        else:
            module.output = edit(module.output, *rest)


if __name__ == "__main__":
    from nnsight import LanguageModel

    model = LanguageModel(sys.argv[1], dispatch=True)
    with model.trace(sys.argv[2]):
        steer(model)
        logits = model.lm_head.output[0, -1].save()
    best = logits.topk(10).indices.tolist()
    print("next token, the likeliest ten:", [model.tokenizer.decode([i]) for i in best])
'''

SNIPPETS = {
    "transformer_lens": _HEAD + _TRANSFORMER_LENS,
    "transformers": _HEAD + _PLACE + _TRANSFORMERS,
    "nnsight": _HEAD + _PLACE + _NNSIGHT,
}
"""The scripts, by the library that they steer."""


def snippet(library: str, name: str) -> str:
    """The script of a library, under the file name that its own usage line gives."""
    needs = "torch, safetensors and " + library.replace("_", "-")
    return SNIPPETS[library].replace("{name}", name, 1).replace("{needs}", needs, 1)
