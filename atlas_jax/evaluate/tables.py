"""Tables of an evaluation, in Markdown and LaTeX, with the paper's figures beside the run's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atlas_jax.evaluate.paper import SUBJECTS, figures, translation_figures

METHOD_NAMES = {
    "linear_regression": "Linear regression",
    "ridge": "Ridge",
    "covariance": "Covariance",
    "correlation": "Correlation",
    "semantic_lens": "Semantic Lens",
    "procrustes": "Orthogonal Procrustes",
    "procrustes_exact": "Procrustes, exact",
    "random": "Random directions",
}


@dataclass(frozen=True)
class Table:
    """Cells of text under a head.

    Attributes:
        caption: what it shows.
        head: of the columns.
        rows: as many cells each.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Caption and table."""
        lines = [self.head, ("---", *["---:"] * (len(self.head) - 1)), *self.rows]
        cells = ["| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines]
        return f"{self.caption}\n\n" + "\n".join(cells) + "\n"

    def latex(self) -> str:
        """A `table` for the package booktabs."""
        lines = [" & ".join(map(_escaped, row)) + r" \\" for row in (self.head, *self.rows)]
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{_escaped(self.caption)}}}",
                rf"\begin{{tabular}}{{l{'r' * (len(self.head) - 1)}}}",
                r"\toprule",
                lines[0],
                r"\midrule",
                *lines[1:],
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
                "",
            ]
        )


def translation_tables(result: Mapping[str, Any], tests: bool = True) -> list[Table]:
    """Means by site, the paper's table 3 where the run has other models, and paired tests.

    Args:
        result: `subject`, `atlas`, `corpus` and, by site, `sites`: `QualityReport.to_dict`.
        tests: also the paired tests.
    """
    sites: Mapping[str, Any] = result["sites"]
    first = next(iter(sites.values()))
    rows = []
    for i, row in enumerate(first["methods"]):
        cells = [METHOD_NAMES.get(row["method"], row["method"])]
        for site, report in sites.items():
            known = translation_figures(result["subject"], site).get(row["method"], {})
            for metric in ("auroc", "ap"):
                cell = interval_cell(report["methods"][i], metric)
                cells.append(f"{cell} ({known[metric]:.2f})" if metric in known else cell)
        rows.append(tuple(cells))
    base = [_number(x) for site in sites.values() for x in (0.5, site["base_rate"])]
    rows.append(("Chance", *base))
    caption = (
        f"Translation quality of {result['subject']} in {result['atlas']}: mean over "
        f"{first['n_features']} atlas features on {first['n_samples']:,} held-out texts, 95 % "
        f"bootstrap interval, seed {first['seed']}, corpus {str(result['corpus'])[:12]}"
    )
    short = _short(list(sites))
    head = ("Method", *(f"{short[s]} {m}" for s in sites for m in ("AUROC", "AP")))
    if list(short.values()) != list(sites):
        caption += f"; sites {', '.join(f'{label} {site}' for site, label in short.items())}"
    tables = [Table(caption + _beside(result["subject"]), head, tuple(rows))]
    if result["subject"] not in SUBJECTS:
        tables.append(_paper_translation())
    for site, report in sites.items():
        tables += [
            tests_table(report["tests"][m], f"{title} at {site}, paired by atlas feature")
            for m, title in (("auroc", "AUROC"), ("ap", "AP"))
            if tests and report["tests"][m]
        ]
    return tables


def _paper_translation(subject: str = "Llama-Base") -> Table:
    found = figures()
    layers = found["translation"][subject]
    rows = [
        (
            METHOD_NAMES[m],
            *(f"{layers[layer][m][x]:.2f}" for layer in layers for x in ("auroc", "ap")),
        )
        for m in found["methods"]
    ]
    return Table(
        f"The paper's own figures ({subject} in Gemma Scope 16k, 500,000 texts; random AP "
        f"{found['random_ap']}): other models, texts and features, so the order of methods can be "
        "compared, the values cannot",
        ("Method", *(f"{layer} {x}" for layer in layers for x in ("AUROC", "AP"))),
        tuple(rows),
    )


def retrieval_tables(result: Mapping[str, Any], tests: bool = True) -> list[Table]:
    """MRR and MPP by site, the paper's table 4, and paired tests.

    Args:
        result: `subject`, `atlas`, `corpus` and, by site, `sites`: `RetrievalReport.to_dict`.
        tests: also the paired tests.
    """
    tables = []
    for site, report in result["sites"].items():
        rows: list[tuple[str, ...]] = []
        for row in report["methods"]:
            name = str(METHOD_NAMES.get(row["method"], row["method"]))
            parts = [(interval_cell(row, m), _number(row[f"{m}_std"])) for m in ("mrr", "mpp")]
            rows.append((name, *parts[0], *parts[1], str(row["tied"])))
        chance = report["random"]
        rows.append(("Chance", _number(chance["mrr"]), "", f"{chance['mpp']:.4f}", "", ""))
        tables.append(
            Table(
                f"Retrieval of {report['n_features']} features of {result['subject']} at {site} in "
                f"{result['atlas']} ({report['texts_of_a_set']} texts each: {report['source']}; "
                f"{report['n_sets']} sets before the rule '{report['validity']}'; seed "
                f"{report['seed']}, corpus {str(result['corpus'])[:12]})",
                ("Method", "MRR", "std", "MPP", "std", "tied"),
                tuple(rows),
            )
        )
    tables.append(_paper_retrieval())
    for site, report in result["sites"].items():
        tables += [
            tests_table(report["tests"][m], f"{m.upper()} at {site}, paired by subject feature")
            for m in ("mrr", "mpp")
            if tests and report["tests"][m]
        ]
    return tables


def _paper_retrieval() -> Table:
    found = figures()["retrieval"]
    keys = [(a, k) for a in found["atlases"] for k in ("mrr", "mrr_std", "mpp", "mpp_std")]
    rows = [
        (METHOD_NAMES[m], *(f"{found['atlases'][a][m][k]:.2f}" for a, k in keys))
        for m in figures()["methods"]
    ]
    titles = [f"{a} {k.replace('_', ' ').upper().replace('STD', 'std')}" for a, k in keys]
    return Table(
        f"The paper's own figures ({found['subject']}, layer 19, {found['features']} features, "
        f"synthetic texts; chance MRR {found['random']['mrr']}, MPP {found['random']['mpp']})",
        ("Method", *titles),
        tuple(rows),
    )


def tests_table(tests: Sequence[Mapping[str, Any]], caption: str) -> Table:
    """Paired comparisons: difference of means, interval, p of sign flips, Holm, Wilcoxon."""
    rows = tuple(
        (
            f"{METHOD_NAMES.get(t['a'], t['a'])} − {METHOD_NAMES.get(t['b'], t['b'])}",
            f"{_number(t['difference'])} [{_number(t['low'])}, {_number(t['high'])}]",
            f"{t['wins']}/{t['queries']}",
            *(_p(t[k]) for k in ("p", "p_holm", "p_wilcoxon")),
        )
        for t in tests
    )
    head = ("Pair", "difference", "wins", "p", "p, Holm", "p, Wilcoxon")
    return Table(caption, head, rows)


def _short(sites: Sequence[str]) -> dict[str, str]:
    """L3 for blocks.3.mlp.hook_post, where the layer alone tells the sites apart."""
    layers = [site.split(".")[1] if site.startswith("blocks.") else "" for site in sites]
    if len(set(layers)) < len(sites) or not all(layers):
        return {site: site for site in sites}
    return {site: f"L{layer}" for site, layer in zip(sites, layers, strict=True)}


def _beside(subject: str) -> str:
    return "; in brackets the paper's figure" if subject in SUBJECTS else ""


def interval_cell(row: Mapping[str, Any], metric: str, digits: int = 3) -> str:
    """Mean and interval of a metric: the fields `metric`, `metric_low` and `metric_high`."""
    mean, low, high = (_number(row[f"{metric}{end}"], digits) for end in ("", "_low", "_high"))
    return f"{mean} [{low}, {high}]"


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _p(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.1e}" if value < 0.001 else f"{value:.3f}"


def _escaped(text: str) -> str:
    for plain, escaped in (
        ("\\", r"\textbackslash{}"), ("&", r"\&"), ("%", r"\%"), ("_", r"\_"), ("#", r"\#"),
        ("−", "$-$"), ("–", "--"), ("Δ", r"$\Delta$"),
    ):  # fmt: skip
        text = text.replace(plain, escaped)
    return text
