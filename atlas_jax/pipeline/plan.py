"""What an experiment takes: FLOPs, bytes and hours of every stage, from the recipe alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from atlas_jax.errors import InputError
from atlas_jax.models.families import read_arch
from atlas_jax.outside import read_json
from atlas_jax.pipeline.recipe import Recipe

TOKENS = 30
"""Of a sentence, as in the paper's corpus (appendix A.2)."""


@dataclass(frozen=True)
class Shape:
    """Of a decoder.

    Attributes:
        layers, d, mlp, heads, kv_heads, head, vocab: as in its config.
        gigabytes: of its files on the hub.
    """

    layers: int
    d: int
    mlp: int
    heads: int
    kv_heads: int
    head: int
    vocab: int
    gigabytes: float = 0.0

    def flops(self, layers: int, logits: bool = False) -> float:
        """Of one token through some layers: two for each weight; attention scores are left out."""
        attention = 2 * self.d * self.head * (self.heads + self.kv_heads)
        head = self.d * self.vocab if logits else 0
        return 2.0 * (layers * (attention + 3 * self.d * self.mlp) + head)


_LLAMA = Shape(32, 4096, 14336, 32, 8, 128, 128256, 16.1)
_QWEN = Shape(28, 3584, 18944, 28, 4, 128, 152064, 15.2)
_GEMMA = Shape(62, 5376, 21504, 32, 16, 128, 262208, 54.9)
SHAPES = {
    "meta-llama/Llama-3.1-8B": _LLAMA,
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA,
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": _LLAMA,
    "google/gemma-2-2b": Shape(26, 2304, 9216, 8, 4, 256, 256000, 10.5),
    "Qwen/Qwen2.5-7B-Instruct": _QWEN,
    "kitft/nla-qwen2.5-7b-L20-av": _QWEN,
    "google/gemma-3-27b-it": _GEMMA,
    "kitft/nla-gemma3-27b-L41-av": replace(_GEMMA, gigabytes=108.0),  # float32
    "gemma-3-270m": Shape(18, 640, 2048, 4, 1, 256, 262144, 0.25),
    "smollm2-135m-instruct": Shape(30, 576, 1536, 9, 3, 64, 49152, 0.1),
}
"""Models whose shape is known before their files are there; that of a folder is read."""


@dataclass(frozen=True)
class AtlasShape:
    """Of an autoencoder: its features, and the model and layer that it reads."""

    features: int
    model: Shape
    layer: int


@dataclass(frozen=True)
class Cost:
    """What a stage takes.

    Attributes:
        stage: its name.
        what: in words.
        flops: floating-point operations.
        stored: bytes that stay on the disk.
        download: bytes that come over the network.
        calls: questions to a judge.
    """

    stage: str
    what: str
    flops: float = 0.0
    stored: float = 0.0
    download: float = 0.0
    calls: int = 0

    def hours(self, rate: float) -> float:
        """At so many FLOP/s; reading and writing go on beside."""
        return self.flops / rate / 3600


def plan(recipe: Recipe) -> list[Cost]:
    """The cost of every stage, in their order.

    Raises:
        InputError: a model whose shape is not known, or a site that it does not have.
    """
    return list(_costs(recipe))


def _costs(recipe: Recipe) -> Iterator[Cost]:
    models = [shape_of(name) for name in (recipe.subject.model, *recipe.subject.also)]
    atlas = _atlas_shape(recipe.atlas.reference)
    n = recipe.corpus.sequences
    if not n:
        raise InputError("Expected corpus.sequences above 0 for a plan: how many is not known yet.")
    half = int(n * recipe.corpus.train_fraction)
    size = 2 if recipe.subject.dtype == "bfloat16" else 4
    files = 4.0 * 2 * atlas.features * atlas.model.d
    download = 1e9 * (sum(m.gigabytes for m in models) + atlas.model.gigabytes) + files
    yield Cost("models", f"{len(models)} subjects and the atlas", download=download)
    yield Cost("corpus", f"{n:,} sentences", stored=4.0 * TOKENS * n)
    widths, deepest = _sites(recipe, models[0])
    reading = sum(m.flops(deepest + 1) for m in models)
    encoding = atlas.model.flops(atlas.layer + 1) + 2.0 * atlas.model.d * atlas.features
    yield Cost(
        "capture",
        f"{n:,} x {TOKENS} tokens, {len(widths)} sites to layer {deepest}, {len(models)} subjects",
        flops=n * TOKENS * (reading + encoding),
        stored=float(n) * (len(models) * size * sum(widths) + size * atlas.features),
    )
    yield _fitting(recipe, widths, atlas, half, len(models))
    columns = (len(recipe.evaluate.chosen) or recipe.evaluate.features) * (
        1 + len(recipe.fit.methods)
    )
    flops = 2.0 * (n - half) * sum(widths) * columns * len(models)
    yield Cost("evaluate", f"{columns} directions on {n - half:,} held-out samples", flops)
    if recipe.retrieval.features or recipe.retrieval.sets:
        texts = 2 * recipe.retrieval.features * recipe.retrieval.samples
        flops = 2.0 * texts * (sum(widths) + atlas.features * len(widths)) * len(models)
        yield Cost("retrieval", f"{recipe.retrieval.features} features at each site", flops)
    yield from _writing(recipe, models, widths)


def _fitting(recipe: Recipe, widths: list[int], atlas: AtlasShape, n: int, subjects: int) -> Cost:
    dc, methods = atlas.features, recipe.fit.methods
    products = len({"cross" if m != "procrustes" else "unit" for m in methods} - {"semantic_lens"})
    flops = 2.0 * n * sum(widths) * dc * products
    if {"linear_regression", "ridge"} & set(methods):
        flops += float(n) * dc**2 + 9.0 * dc**3
    if "procrustes" in methods:
        flops += sum(2.0 * min(d, dc) ** 2 * max(d, dc) + 9.0 * min(d, dc) ** 3 for d in widths)
    stored = 4.0 * sum(widths) * dc * len(methods)
    what = f"{len(methods)} methods, {n:,} samples, {sum(widths):,} x {dc:,}"
    return Cost("fit", what, subjects * flops, subjects * stored)


def _writing(recipe: Recipe, models: list[Shape], widths: list[int]) -> Iterator[Cost]:
    def tokens(texts: int, length: int) -> float:
        return texts * length * sum(m.flops(m.layers, logits=True) for m in models)

    queries = len(recipe.identify.queries)
    if queries:
        yield Cost("identify", f"{queries} queries; top samples are read from the store")
    if queries and recipe.steer.strengths:
        places = 1 if len(widths) == 1 else 2
        texts = 1 + queries * len(recipe.steer.strengths) * places
        length = recipe.steer.max_new_tokens
        yield Cost("steer", f"{texts} texts of {length} tokens", tokens(texts, length))
    asked = recipe.evaluate_steering
    if asked.queries:
        places = len(widths) + (len(widths) > 1)
        texts = len(asked.queries) * len(asked.prompts) * len(asked.strengths)
        texts *= (len(asked.methods) + 1) * places  # random directions too
        yield Cost(
            "evaluate steering",
            f"{len(asked.queries)} queries x {len(asked.prompts)} prompts x "
            f"{len(asked.strengths)} strengths x {len(asked.methods) + 1} methods x {places} "
            f"places, {asked.max_new_tokens} tokens each, {len(models)} subjects",
            tokens(texts, asked.max_new_tokens),
            calls=texts * len(models) * asked.judge_samples if asked.judge else 0,
        )


def _sites(recipe: Recipe, shape: Shape) -> tuple[list[int], int]:
    """Widths of the subject's sites, and its deepest layer among them."""
    if not recipe.subject.sites:  # an early, a middle and a late layer's neurons
        return [shape.mlp] * 3, max(1, 3 * shape.layers // 4)
    widths, layers = [], []
    for name in recipe.subject.sites:
        layer = _layer(name)
        if not 0 <= layer < shape.layers:
            raise InputError(
                f"Expected blocks.0 to blocks.{shape.layers - 1} of {recipe.subject.model}, got "
                f"{name}."
            )
        widths.append(shape.mlp if "mlp.hook_p" in name else shape.d)
        layers.append(layer)
    return widths, max(layers)


def shape_of(model: str) -> Shape:
    """The shape of a model: known, or read from its config.json.

    Raises:
        InputError: neither.
    """
    if model in SHAPES:
        return SHAPES[model]
    folder = Path(model).expanduser()
    if not (folder / "config.json").is_file():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            found = try_to_load_from_cache(model, "config.json")
        except HFValidationError:
            found = None
        if not isinstance(found, str):
            raise InputError(
                f"The shape of '{model}' is not known before its config.json is there: download it "
                "first, or plan with a model that is known: " + ", ".join(SHAPES) + "."
            )
        folder = Path(found).parent
    a = read_arch(read_json(folder / "config.json"))
    return Shape(a.n_layers, a.d_model, a.d_mlp, a.n_heads, a.n_kv_heads, a.d_head, a.vocab_size)


def _atlas_shape(reference: str) -> AtlasShape:
    scope = re.search(r"gemma-scope-2b-pt-res.*layer_(\d+)/width_(\d+)k", reference)
    if scope:  # 16k is 16,384
        features = 2 ** round(math.log2(1000 * int(scope[2])))
        return AtlasShape(features, SHAPES["google/gemma-2-2b"], int(scope[1]))
    from atlas_jax.atlas.formats import SAE_FORMATS, find_format
    from atlas_jax.atlas.reference import released

    folder = released().get(reference, Path(reference).expanduser())
    if not folder.is_dir():
        raise InputError(
            f"The size of the atlas '{reference}' is not known before it is there: plan with a "
            "folder, or with one of Gemma Scope's 2B."
        )
    found = SAE_FORMATS[find_format(folder)].load(folder, {})
    return AtlasShape(found.sae.n_features, shape_of(found.model_name), _layer(found.site))


def _layer(site: str) -> int:
    match = re.match(r"blocks\.(\d+)\.", site)
    return int(match[1]) if match else -1
