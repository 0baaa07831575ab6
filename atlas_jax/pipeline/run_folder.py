"""A run folder opened again: its models, translations, stores and texts, each when first needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas_jax.errors import InputError
from atlas_jax.files import read_json
from atlas_jax.pipeline.recipe import Recipe, settings

if TYPE_CHECKING:
    from atlas_jax.activations import ActivationStore
    from atlas_jax.atlas import Atlas
    from atlas_jax.corpus import Corpus
    from atlas_jax.models import LanguageModel
    from atlas_jax.query import Query
    from atlas_jax.translate import Translation


class RunFolder:
    """What `atlas-jax quickstart` or `atlas-jax run` left in a folder.

    A subject's own folder within a run of several finds what all of them share one folder up.

    Raises:
        InputError: no run there.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        try:
            found = read_json(self.folder / "manifest.json", "manifest of a run", "run it again")
            self.recipe: dict[str, Any] = settings(Recipe, found["recipe"], "").to_dict()
        except (InputError, KeyError, TypeError):
            raise InputError(
                f"Expected the folder of a run, {folder} holds none: make one with atlas-jax "
                f"quickstart --out {folder}."
            ) from None

    @cached_property
    def model(self) -> LanguageModel:
        """The subject."""
        from atlas_jax.models import load_model

        return load_model(self.recipe["subject"]["model"], self.recipe["subject"]["dtype"])

    @cached_property
    def atlas(self) -> Atlas:
        """The atlas."""
        from atlas_jax.atlas import load_atlas

        source = self.recipe["atlas"]
        return load_atlas(source["reference"], dtype=source["dtype"])

    @cached_property
    def corpus(self) -> Corpus:
        """The sentences of the run."""
        from atlas_jax.corpus import Corpus

        return Corpus.load(self.corpus_folder)

    @property
    def corpus_folder(self) -> Path:
        """Where they are."""
        return self._shared("corpus")

    @cached_property
    def held_out(self) -> ActivationStore:
        """The subject's activations on the held-out sentences."""
        return self._store("eval", "subject")

    @cached_property
    def held_out_atlas(self) -> ActivationStore:
        """The atlas's activations on the same sentences."""
        return self._store("eval", "atlas")

    @cached_property
    def train(self) -> ActivationStore:
        """The subject's activations on the sentences of the fit."""
        return self._store("train", "subject")

    @cached_property
    def train_atlas(self) -> ActivationStore:
        """The atlas's activations on the same sentences."""
        return self._store("train", "atlas")

    def _store(self, half: str, side: str) -> ActivationStore:
        from atlas_jax.activations import ActivationStore

        return ActivationStore.open(self._shared(f"activations/{half}/{side}"))

    def _shared(self, name: str) -> Path:
        mine, common = self.folder / name, self.folder.parent / name
        return common if common.exists() and not mine.exists() else mine

    @cached_property
    def files(self) -> dict[str, dict[str, Path]]:
        """The translations by site and method, first layers first, in the order of METHODS.

        Raises:
            InputError: there are none.
        """
        found: dict[str, dict[str, Path]] = {}
        files = (self.folder / "translations").glob("*/*.safetensors")
        for path in sorted(files, key=lambda path: (_layer(path.parent.name), _order(path.stem))):
            found.setdefault(path.parent.name, {})[path.stem] = path
        if not found:
            raise InputError(
                f"Expected translations in {self.folder}, found none: let the run finish its fit."
            )
        return found

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites with translations, first layers first."""
        return tuple(self.files)

    def choose_sites(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        """Those that were asked for; default: all.

        Raises:
            InputError: one without a translation.
        """
        for site in wanted or ():
            if site not in self.files:
                raise InputError(
                    f"Expected a site that was fitted ({', '.join(self.sites)}), got '{site}'."
                )
        return tuple(wanted or self.sites)

    def choose_methods(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        """Those that were asked for; default: all that some site was fitted with.

        Raises:
            InputError: one that no site was fitted with.
        """
        known = tuple(dict.fromkeys(method for by in self.files.values() for method in by))
        for method in wanted or ():
            if method not in known:
                raise InputError(
                    f"Expected a method that was fitted ({', '.join(known)}), got '{method}'."
                )
        return tuple(wanted or known)

    def translation(self, site: str, method: str) -> Translation:
        """One translation, read now.

        Raises:
            InputError: the run has none by this method there.
        """
        from atlas_jax.translate import Translation

        return Translation.load(self.file(site, method))

    def file(self, site: str, method: str) -> Path:
        """Where a translation is.

        Raises:
            InputError: the run has none by this method there.
        """
        if method not in self.files[site]:
            raise InputError(
                f"Expected a method that was fitted at {site} ({', '.join(self.files[site])}), "
                f"got '{method}'."
            )
        return self.files[site][method]

    def translations(self, sites: Sequence[str], methods: Sequence[str]) -> Iterator[Translation]:
        """One after the other, so that one at a time is in memory."""
        for method in methods:
            for site in sites:
                yield self.translation(site, method)

    def about(self) -> dict[str, Any]:
        """What every result names."""
        mine, theirs = self.held_out.meta, self.held_out_atlas.meta
        return {
            "subject": mine["model"],
            "atlas": theirs["model"],
            "corpus": mine["texts"],
            "fingerprints": {"subject": mine["fingerprint"], "atlas": theirs["fingerprint"]},
        }

    def query(self, text: str | None, features: str | None, top: int) -> Query:
        """A query in words, from a file that `--save-query` wrote, or by feature numbers.

        Raises:
            InputError: none or both of the two, or whatever the atlas refuses.
        """
        if (text is None) == (features is None):
            raise InputError("Expected either a query in words (or its file) or --features 12,34.")
        if features is not None:
            try:
                numbers = [int(part) for part in features.split(",")]
            except ValueError:
                raise InputError(f"Expected --features like 12,34, got '{features}'.") from None
            return self.atlas.query(features=numbers)
        assert text is not None
        if text.endswith(".json"):
            return self.atlas.load_query(Path(text).expanduser())
        return self.atlas.query(text=text, top=top)


def query_facts(query: Query, atlas: Atlas) -> dict[str, Any]:
    """A query as JSON: its atlas features, weights and descriptions."""
    rows = zip(query.features, query.weights, strict=True)
    return {
        "name": query.name,
        "features": [
            {"feature": f, "weight": w, "description": atlas.describe(f)} for f, w in rows
        ],
    }


def _layer(site: str) -> tuple[int, str]:
    number = site.split(".")[1] if site.count(".") else ""
    return (int(number) if number.isdecimal() else -1, site)


def _order(method: str) -> tuple[int, str]:
    from atlas_jax.translate import METHODS

    names = list(METHODS)
    return (names.index(method) if method in names else len(names), method)
