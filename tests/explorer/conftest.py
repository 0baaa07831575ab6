"""A small run of random models, whose texts and labels are markup that would run."""

from __future__ import annotations

import json
import os
import re
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

from atlas_jax.activations import capture
from atlas_jax.atlas import Labels, load_atlas
from atlas_jax.corpus import Corpus, Texts
from atlas_jax.explorer.explored import Explored
from atlas_jax.models import load_model
from atlas_jax.pipeline.smoke import smoke_recipe
from atlas_jax.translate import Translation

PLANTED = '<img src=x onerror="window.hurt=1"><script>window.hurt=1</script> {{value}} ${1+1}'
SITES = ("blocks.1.mlp.hook_post", "blocks.3.hook_resid_post")
METHODS = ("procrustes", "covariance")
ROWS = 40


class WordEmbedder:
    """Texts that share words are near; the first three count."""

    width, fingerprint = 256, "words"

    def embed(self, texts):
        rows = np.zeros((len(texts), self.width), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in re.findall(r"\w+", text.lower())[:3]:
                row[zlib.crc32(word.encode()) % self.width] += 1
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1)


@pytest.fixture(scope="package", autouse=True)
def quick(tmp_path_factory):
    """Compiling is most of the time of these tests, and their models are tiny."""
    before = os.environ.get("ATLAS_JAX_CACHE")
    os.environ["ATLAS_JAX_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    os.environ.pop("ATLAS_JAX_CACHE")
    if before is not None:
        os.environ["ATLAS_JAX_CACHE"] = before


@pytest.fixture(scope="package")
def folder(tmp_path_factory) -> Path:
    """A run: two sites, two methods, a held-out store, a corpus, a report and a lift."""
    folder = tmp_path_factory.mktemp("run")
    recipe = smoke_recipe(folder / "models").with_values({"steer.strengths": [300.0]})
    (folder / "manifest.json").write_text(json.dumps({"recipe": recipe.to_dict(), "stages": {}}))
    nouns = ("river", "number", "street", "animal", "song")
    lines = [f"The {nouns[i % 5]} number {i} is here. {PLANTED}" for i in range(ROWS)]
    corpus = Corpus(Texts(["One text to fit on."]), Texts(lines, ["<b>source</b>"] * ROWS))
    corpus.save(folder / "corpus")
    labels = Labels.of([(i, f"rivers, kind {i} {PLANTED}") for i in range(0, 96, 12)])
    labels.save(Path(recipe.atlas.reference) / "labels.jsonl")
    model, atlas = load_model(recipe.subject.model), load_atlas(recipe.atlas.reference)
    out = folder / "activations" / "eval" / "subject"
    capture(model, corpus.eval, list(SITES), out=out, batch_tokens=2048, max_tokens=64)
    rng = np.random.default_rng(0)
    for site in SITES:
        for method in METHODS:
            matrix = rng.standard_normal((model.width(site), atlas.sae.n_features))
            matrix[5] = 0
            meta = {"subject": {"site": site}, "atlas": {"model": "atlas"}}
            translation = Translation(method, matrix.astype(np.float32), meta)
            translation.save(folder / "translations" / site / f"{method}.safetensors")
    scores = {"auroc": [0.7, 0.6, 0.8], "ap": [0.3, 0.2, 0.4]}
    layers = {site: dict.fromkeys(METHODS, scores) for site in SITES}
    (folder / "report.json").write_text(
        json.dumps({"quality": {"layers": layers, "n_samples": 40}})
    )
    return folder


@pytest.fixture(scope="package")
def lift(tmp_path_factory) -> Path:
    """What `atlas-jax lift` writes, as far as it is shown."""
    path = tmp_path_factory.mktemp("lift") / "lift.json"
    features = [
        {
            "name": "7",
            "native": ["about rivers"],
            "foreign": [f"water {PLANTED}"],
            "lift_spec": 0.1,
        },
        {"name": "9", "native": ["about music"], "foreign": ["songs"], "lift_spec": 0.4},
    ]
    sides = {"source": {"model": "one", "site": "a"}, "target": {"model": "two", "site": "b"}}
    spec = {"mean": 0.25, "low": 0.1, "high": 0.4}
    path.write_text(
        json.dumps({"figures": {"lift_spec": spec}, "bridge": sides, "features": features})
    )
    return path


@pytest.fixture(scope="package")
def explored(folder, lift) -> Explored:
    """The run, opened; its atlas compares words."""
    explored = Explored(folder, lift)
    atlas = explored.run.atlas
    atlas._embedder = WordEmbedder
    return explored
