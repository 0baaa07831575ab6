"""atlas-jax: read, search and steer one language model through the labelled features of another.

    import atlas_jax as aj

    model = aj.load_model("gemma-3-270m")
    atlas = aj.load_atlas()
    corpus = aj.build_corpus("packages", n=4000)
    store = aj.capture(model, corpus.train, out="runs/a/subject")
    astore = aj.capture(atlas, corpus.train, out="runs/a/atlas")
    maps = aj.fit(store["blocks.8.mlp.hook_post"], astore, methods=("procrustes",))
    scores = maps["procrustes"].scores(atlas.query(text="dogs and cats"))
    aj.generate(model, ["My"], edits=[aj.steer("blocks.8.mlp.hook_post", scores, strength=4)])

Names are imported when first used, so that `import atlas_jax` is quick.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atlas_jax.activations import ActivationStore, capture
    from atlas_jax.atlas import Atlas, load_atlas
    from atlas_jax.corpus import Corpus, Texts, build_corpus
    from atlas_jax.errors import InputError
    from atlas_jax.evaluate import (
        JUDGES,
        evaluate_retrieval,
        evaluate_steering,
        evaluate_translation,
        protocol_queries,
    )
    from atlas_jax.export import export_sae, export_translation, export_vectors
    from atlas_jax.fit_streaming import fit_streaming
    from atlas_jax.frames import to_pandas
    from atlas_jax.identify import identify
    from atlas_jax.models import Edit, LanguageModel, generate, load_model
    from atlas_jax.parallel import make_mesh
    from atlas_jax.query import Query
    from atlas_jax.steering import difference_of_means, steer, steer_query
    from atlas_jax.translate import METHODS, Options, Translation, compare, fit, fit_moments
    from atlas_jax.translate.estimator import TranslationTransformer
    from atlas_jax.verbalize import Washout, fit_bridge, load_verbalizer

_HOMES = {
    "activations": ("ActivationStore", "capture"),
    "atlas": ("Atlas", "load_atlas"),
    "corpus": ("Corpus", "Texts", "build_corpus"),
    "errors": ("InputError",),
    "evaluate": (
        "JUDGES",
        "evaluate_retrieval",
        "evaluate_steering",
        "evaluate_translation",
        "protocol_queries",
    ),
    "export": ("export_sae", "export_translation", "export_vectors"),
    "fit_streaming": ("fit_streaming",),
    "frames": ("to_pandas",),
    "identify": ("identify",),
    "models": ("Edit", "LanguageModel", "generate", "load_model"),
    "parallel": ("make_mesh",),
    "query": ("Query",),
    "steering": ("difference_of_means", "steer", "steer_query"),
    "translate": ("METHODS", "Options", "Translation", "compare", "fit", "fit_moments"),
    "translate.estimator": ("TranslationTransformer",),
    "verbalize": ("Washout", "fit_bridge", "load_verbalizer"),
}
_WHERE = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "JUDGES",
    "METHODS",
    "ActivationStore",
    "Atlas",
    "Corpus",
    "Edit",
    "InputError",
    "LanguageModel",
    "Options",
    "Query",
    "Texts",
    "Translation",
    "TranslationTransformer",
    "Washout",
    "build_corpus",
    "capture",
    "compare",
    "difference_of_means",
    "evaluate_retrieval",
    "evaluate_steering",
    "evaluate_translation",
    "export_sae",
    "export_translation",
    "export_vectors",
    "fit",
    "fit_bridge",
    "fit_moments",
    "fit_streaming",
    "generate",
    "identify",
    "load_atlas",
    "load_model",
    "load_verbalizer",
    "make_mesh",
    "protocol_queries",
    "steer",
    "steer_query",
    "to_pandas",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'atlas_jax' has no attribute '{name}'")
    module = _WHERE[name]
    found = getattr(import_module(f"atlas_jax.{module}"), name)
    globals()[name] = found
    return found


class _Package(ModuleType):
    """`identify` and `fit_streaming` are modules and functions: the function is the public name,
    whoever imports the module first."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and name in _WHERE):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return __all__
