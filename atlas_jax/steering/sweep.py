"""Many prompts under many edits in one executable, written down as they come."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from atlas_jax.errors import InputError
from atlas_jax.journal import Journal, digest
from atlas_jax.models import LanguageModel, generate
from atlas_jax.models.sites import Edit


@dataclass(frozen=True)
class Plan:
    """One way to steer.

    Attributes:
        label: what its rows say about it, such as query, place and strength.
        edits: none: unsteered.
    """

    label: Mapping[str, Any]
    edits: Sequence[Edit] = ()


@dataclass(frozen=True)
class Sampling:
    """How texts are continued; see `generate`."""

    max_new_tokens: int = 100
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    chat: bool = False
    edit_prompt: bool = True


@dataclass
class _Task:
    key: str
    row: dict[str, Any]
    edits: list[Edit] = field(default_factory=list)


def write_steered(
    model: LanguageModel,
    plans: Sequence[Plan],
    prompts: Sequence[str],
    out: str | os.PathLike[str] | None = None,
    sampling: Sampling = Sampling(),
    batch_size: int = 32,
    progress: str = "writing",
) -> list[list[dict[str, Any]]]:
    """Continues every prompt under every plan.

    Rows go to `out` batch by batch. A row's id names the model, prompt, edits and sampling, so the
    same call goes on where it stopped, and a call with more plans or prompts adds what is new.
    Edits that do nothing (strength 0) are no edits: those texts are the unsteered ones.

    Args:
        model: the subject.
        plans: how to steer.
        prompts: what to continue.
        out: a JSONL file; None keeps nothing.
        sampling: how.
        batch_size: texts at once, of any plans and prompts.
        progress: label of the progress bar.

    Returns:
        For each plan a row for each prompt: `id`, the plan's label, `prompt` and `text`.

    Raises:
        InputError: no plan or prompt, whatever `generate` refuses, or a file of something else.
    """
    if not len(plans) or not len(prompts):
        raise InputError("Expected at least one plan and one prompt, got none.")
    vectors: dict[int, str] = {}
    tasks = [
        [_task(model, plan, prompt, sampling, vectors) for prompt in prompts] for plan in plans
    ]
    with Journal(out) as journal:
        wanted = {task.key: task for row in tasks for task in row}
        todo = [task for key, task in wanted.items() if key not in journal]

        def note(first: int, texts: list[str]) -> None:
            done = zip(todo[first : first + len(texts)], texts, strict=True)
            journal.add(task.row | {"text": text} for task, text in done)

        if todo:
            settings: dict[str, Any] = asdict(sampling)
            # A text's own seed: what it says must not depend on where the last run stopped.
            settings["seed"] = [int(task.key[:8], 16) for task in todo]
            generate(
                model,
                [task.row["prompt"] for task in todo],
                [task.edits for task in todo],
                **settings,
                batch_size=batch_size,
                on_batch=note,
                progress=progress,
            )
        return [
            [task.row | {"text": journal[task.key]["text"]} for task in by_plan]
            for by_plan in tasks
        ]


def _task(
    model: LanguageModel, plan: Plan, prompt: str, sampling: Sampling, vectors: dict[int, str]
) -> _Task:
    edits = [edit for edit in plan.edits if edit.strength != 0 or edit.mode == "clamp"]
    named = sorted((e.site, e.mode, e.strength, _hash(e, vectors)) for e in edits)
    settings = asdict(sampling)
    if not edits:
        settings.pop("edit_prompt")
    key = digest(model.fingerprint, prompt, settings, named)
    return _Task(key, {"id": key, **plan.label, "prompt": prompt}, edits)


def _hash(edit: Edit, known: dict[int, str]) -> str:
    """Of the vector, taken once for each array."""
    if id(edit.vector) not in known:
        data = np.ascontiguousarray(edit.vector, np.float32).data
        known[id(edit.vector)] = hashlib.sha256(data).hexdigest()
    return known[id(edit.vector)]
