"""The paper's own figures (arXiv 2510.27413, tables 3 to 5 and 7), to be set beside a run's."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

SUBJECTS = {
    "meta-llama/Llama-3.1-8B": "Llama-Base",
    "meta-llama/Llama-3.1-8B-Instruct": "Llama-IT",
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": "Llama-R1",
}
"""The paper's names of its subject models."""


@cache
def figures() -> dict[str, Any]:
    """Everything: translation, random_ap, retrieval, steering, by subject, layer and method."""
    return json.loads(files("atlas_jax.evaluate").joinpath("paper.json").read_text("utf-8"))


def translation_figures(subject: str, site: str) -> dict[str, dict[str, float]]:
    """{method: {"auroc", "ap"}} of table 7, where the paper has this subject and MLP layer."""
    name = SUBJECTS.get(subject)
    parts = site.split(".")
    if name is None or parts[2:] != ["mlp", "hook_post"]:
        return {}
    return figures()["translation"][name].get(f"L{parts[1]}", {})
