"""A run folder opened again: its atlas, translations, stores and texts, each when first needed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas_jax.errors import InputError

if TYPE_CHECKING:
    from atlas_jax.activations import ActivationStore
    from atlas_jax.atlas import Atlas
    from atlas_jax.corpus import Corpus
    from atlas_jax.models import LanguageModel
    from atlas_jax.query import Query
    from atlas_jax.translate import Translation


class RunFolder:
    """What `atlas-jax quickstart` or `atlas-jax run` left in a folder.

    Raises:
        InputError: no run there, or one without translations.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser()
        try:
            self.recipe: dict[str, Any] = json.loads(
                (self.folder / "manifest.json").read_text("utf-8")
            )["recipe"]
        except (OSError, ValueError, KeyError):
            raise InputError(
                f"Expected the folder of a run, {folder} holds none: make one with atlas-jax "
                f"quickstart --out {folder}."
            ) from None
        self._files: dict[str, dict[str, Path]] = {}
        for path in sorted((self.folder / "translations").glob("*/*.safetensors")):
            self._files.setdefault(path.parent.name, {})[path.stem] = path
        if not self._files:
            raise InputError(
                f"Expected translations in {folder}, found none: let the run finish its fit."
            )

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

        return Corpus.load(self.folder / "corpus")

    @cached_property
    def store(self) -> ActivationStore:
        """The subject's activations on the held-out sentences."""
        from atlas_jax.activations import ActivationStore

        return ActivationStore.open(self.folder / "activations" / "eval" / "subject")

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites with translations, first layers first."""
        return tuple(sorted(self._files, key=lambda site: (_layer(site), site)))

    def choose_sites(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        """Those that were asked for; default: all.

        Raises:
            InputError: one without a translation.
        """
        for site in wanted or ():
            if site not in self._files:
                raise InputError(
                    f"Expected a site that was fitted ({', '.join(self.sites)}), got '{site}'."
                )
        return tuple(wanted or self.sites)

    def translation(self, site: str, method: str) -> Translation:
        """One translation, read now.

        Raises:
            InputError: the run has none by this method there.
        """
        from atlas_jax.translate import Translation

        if method not in self._files[site]:
            raise InputError(
                f"Expected a method that was fitted ({', '.join(self._files[site])}), got "
                f"'{method}'."
            )
        return Translation.load(self._files[site][method])

    def translations(self, sites: Sequence[str], methods: Sequence[str]) -> Iterator[Translation]:
        """One after the other, so that one at a time is in memory."""
        for method in methods:
            for site in sites:
                yield self.translation(site, method)

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


def _layer(site: str) -> int:
    number = site.split(".")[1] if site.count(".") else ""
    return int(number) if number.isdecimal() else -1
