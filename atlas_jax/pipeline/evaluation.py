"""Evaluations of a finished run: its stores and translations in, numbers, tables and plots out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas_jax.activations import ActivationStore
from atlas_jax.errors import InputError
from atlas_jax.evaluate.concept_sets import ConceptSets, sets_from_samples
from atlas_jax.evaluate.retrieval import evaluate_retrieval
from atlas_jax.evaluate.tables import Table, retrieval_tables, translation_tables
from atlas_jax.evaluate.translation_quality import evaluate_translation
from atlas_jax.report.figures import distribution, intervals, save_figure
from atlas_jax.translate import METHODS, Translation

SETTINGS = {"translation": ("auroc", "ap"), "retrieval": ("mrr", "mpp")}


@dataclass(frozen=True)
class Recorded:
    """What of a run folder an evaluation reads.

    Attributes:
        folder: the run.
        subject: held-out activations of the subject, all sites.
        atlas: those of the atlas.
        files: translations by site and method.
    """

    folder: Path
    subject: ActivationStore
    atlas: ActivationStore
    files: Mapping[str, Mapping[str, Path]]

    @classmethod
    def open(
        cls, folder: str | Path, sites: Sequence[str] = (), methods: Sequence[str] = ()
    ) -> Recorded:
        """Opens a run folder.

        Args:
            folder: of the run.
            sites: some of its sites; default: all that have translations.
            methods: some of its methods; default: all.

        Raises:
            InputError: no run there, unfinished stores, or a site or method that it lacks.
        """
        folder = Path(folder).expanduser()
        place = folder / "translations"
        found = {
            site.name: {file.stem: file for file in sorted(site.glob("*.safetensors"), key=_order)}
            for site in sorted(place.glob("*"), key=_layer)
            if site.is_dir()
        }
        if not any(found.values()):
            raise InputError(
                f"Expected a run folder with translations at {folder}, found none: "
                "atlas-jax run RECIPE --out FOLDER makes one."
            )
        wrong = [site for site in sites if site not in found]
        if wrong:
            raise InputError(f"Expected sites among {', '.join(found)}, got {', '.join(wrong)}.")
        found = {site: by for site, by in found.items() if site in sites or not sites}
        known = list(dict.fromkeys(m for by in found.values() for m in by))
        wrong = [method for method in methods if method not in known]
        if wrong:
            raise InputError(f"Expected methods among {', '.join(known)}, got {', '.join(wrong)}.")
        chosen = {site: {m: by[m] for m in methods or by if m in by} for site, by in found.items()}
        # Subjects of one run share the atlas's activations, one folder up.
        alone = (folder / "activations/eval/atlas").exists()
        places = {"subject": folder, "atlas": folder if alone else folder.parent}
        stores = [ActivationStore.open(p / "activations/eval" / s) for s, p in places.items()]
        return cls(folder, stores[0], stores[1], chosen)

    def maps(self, site: str) -> dict[str, Translation]:
        """The translations of a site."""
        return {name: Translation.load(file) for name, file in self.files[site].items()}

    @property
    def concepts(self) -> Any:
        """The atlas's held-out rows."""
        return self.atlas[self.atlas.sites[0]]

    def about(self) -> dict[str, Any]:
        """What every result names."""
        meta = self.subject.meta
        return {
            "subject": meta["model"],
            "atlas": self.atlas.meta["model"],
            "corpus": meta["texts"],
            "fingerprints": {
                "subject": meta["fingerprint"], "atlas": self.atlas.meta["fingerprint"]
            },
        }  # fmt: skip


def _order(file: Path) -> tuple[int, str]:
    names = list(METHODS)
    return (names.index(file.stem) if file.stem in names else len(names), file.stem)


def _layer(path: Path) -> tuple[int, str]:
    part = path.name.split(".")[1] if path.name.count(".") else ""
    return (int(part) if part.isdecimal() else -1, path.name)


def evaluate_run_translation(
    run: Recorded, features: int | Sequence[int] = 100, **how: Any
) -> dict[str, Any]:
    """`evaluate_translation` at every site, as JSON-able values."""
    sites = {
        site: evaluate_translation(
            run.maps(site), run.subject[site], run.concepts, features=features, **how
        ).to_dict()
        for site in run.files
    }
    return {**run.about(), "sites": sites}


def evaluate_run_retrieval(
    run: Recorded,
    features: int | Sequence[int] = 454,
    size: int = 20,
    *,
    validity: str = "sets",
    seed: int = 0,
    sets: Callable[[str], ConceptSets] | None = None,
) -> dict[str, Any]:
    """`evaluate_retrieval` at every site, as JSON-able values.

    Args:
        run: the run.
        features: subject features to draw at each site, or which.
        size: texts of a set.
        validity: the rule of `evaluate_retrieval`.
        seed: of the draw and the bootstrap.
        sets: from a site to its sets; default: made of held-out texts.
    """
    sites = {}
    for site in run.files:
        if sets is None:
            found = sets_from_samples(run.subject[site], run.concepts, features, size, seed)
        else:
            found = sets(site)
        report = evaluate_retrieval(run.maps(site), found, validity=validity, seed=seed)
        sites[site] = report.to_dict()
    return {**run.about(), "sites": sites}


def save_evaluation(kind: str, result: Mapping[str, Any], out: Path) -> list[Path]:
    """Writes JSON, Markdown, LaTeX and plots (SVG) of an evaluation.

    Args:
        kind: `translation` or `retrieval`.
        result: what `evaluate_run_translation` or `evaluate_run_retrieval` gave.
        out: the folder.

    Raises:
        InputError: the folder cannot be written to.
    """
    tables: list[Table] = {"translation": translation_tables, "retrieval": retrieval_tables}[kind](
        result
    )
    written = [out / f"{kind}.{ending}" for ending in ("json", "md", "tex")]
    try:
        out.mkdir(parents=True, exist_ok=True)
        written[0].write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
        written[1].write_text("\n".join(table.markdown() for table in tables), "utf-8")
        written[2].write_text("\n".join(table.latex() for table in tables), "utf-8")
        written += _plots(kind, result["sites"], out)
    except OSError as error:
        raise InputError(
            f"Could not write into {out}: {error.strerror or error}. Name another folder with "
            "--out."
        ) from None
    return written


def _plots(kind: str, sites: Mapping[str, Any], out: Path) -> list[Path]:
    layers = layers_of(sites, SETTINGS[kind])
    first = next(iter(sites.values()))
    methods = [row["method"] for row in first["methods"]]
    chances = first.get("random") or {"auroc": 0.5, "ap": first.get("base_rate")}
    written = []
    for metric in SETTINGS[kind]:
        title = metric.upper()
        figures = {
            "": intervals(layers, methods, metric, title, chances[metric]),
            "_features": distribution(layers, methods, metric, title),
        }
        written += [
            save_figure(figure, out / f"{metric}{name}.svg")
            for name, figure in figures.items()
            if figure is not None
        ]
    return written


def layers_of(sites: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    """Reports of all sites in the form that figures are drawn from."""
    layers: dict[str, Any] = {}
    for site, report in sites.items():
        layers[site] = {}
        for row in report["methods"]:
            entry: dict[str, Any] = {}
            for metric in metrics:
                entry[metric] = [row[f"{metric}{end}"] for end in ("", "_low", "_high")]
                entry[f"{metric}_per_feature"] = report["per_feature"][row["method"]][metric]
            layers[site][row["method"]] = entry
    return layers
