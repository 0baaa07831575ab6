"""Makes `atlas_jax/atlas/releases.json` from the directory that SAELens ships (MIT licence).

    pip install sae-lens && python tests/atlas/releases.py

It keeps facts only: what a release is called, where it lies, and what its autoencoders are named.
Releases of transcoders, and of formats that are not read here, are left out.
"""

import json
from importlib.metadata import version
from pathlib import Path

TABLE = Path(__file__).parents[2] / "atlas_jax" / "atlas" / "releases.json"
FORMATS = {
    None: "saelens",
    "gemma_2": "gemma_scope",
    "gemma_3": "gemma_scope_2",
    "llama_scope": "llama_scope",
    "dictionary_learning_1": "dictionary_learning",
}
MODELS = {
    "gpt2-small": "openai-community/gpt2",
    "gemma-2b": "google/gemma-2b",
    "gemma-2b-it": "google/gemma-2b-it",
    "gemma-2-2b": "google/gemma-2-2b",
    "gemma-2-2b-it": "google/gemma-2-2b-it",
    "gemma-2-9b": "google/gemma-2-9b",
    "gemma-2-9b-it": "google/gemma-2-9b-it",
    "gemma-2-27b": "google/gemma-2-27b",
    "gemma-2-27b-it": "google/gemma-2-27b-it",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
    "pythia-70m-deduped": "EleutherAI/pythia-70m-deduped",
}
"""TransformerLens' names of models, which autoencoders' files use, to names on the hub."""
LEFT_OUT = ("transcoder", "sae_bench")  # the latter: sweeps of hundreds
OVERRIDES = ("normalize_activations", "model_from_pretrained_kwargs")


def template(saes):
    """The path as text around the id, where it is that for all of them."""
    first = saes[0]
    if first["id"] not in first["path"]:
        return None
    before, _, after = first["path"].partition(first["id"])
    whole = before + "{id}" + after
    return whole if all(whole.replace("{id}", s["id"]) == s["path"] for s in saes) else None


def entry(release):
    saes = release["saes"]
    found = {
        "repo": release["repo_id"],
        "format": FORMATS[release.get("conversion_func")],
        "model": MODELS.get(release["model"], release["model"]),
        "paths": template(saes) or {s["id"]: s["path"] for s in saes},
    }
    for ours, theirs in {"neuronpedia": "neuronpedia", "scales": "norm_scaling_factor"}.items():
        values = {s["id"]: s[theirs] for s in saes if s.get(theirs)}
        if values and not (ours == "scales" and found["format"] == "llama_scope"):
            found[ours] = values
    config = {k: v for k, v in (release.get("config_overrides") or {}).items() if k in OVERRIDES}
    return {**found, **({"config": config} if config else {})}


def table(directory):
    releases = {
        name: entry(release)
        for name, release in sorted(directory.items())
        if release.get("conversion_func") in FORMATS and not any(word in name for word in LEFT_OUT)
    }
    return {
        "source": f"sae-lens {version('sae-lens')}, pretrained_saes.yaml (MIT licence)",
        "models": MODELS,
        "releases": releases,
    }


def directory():
    from importlib.resources import files

    import yaml

    text = files("sae_lens").joinpath("pretrained_saes.yaml").read_text("utf-8")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


if __name__ == "__main__":
    made = table(directory())
    lines = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in made["releases"].items()]
    head = ",\n".join(f" {json.dumps(k)}: {json.dumps(made[k])}" for k in ("source", "models"))
    body = ",\n".join(lines)
    TABLE.write_text(f'{{\n{head},\n "releases": {{\n{body}\n }}\n}}\n')
