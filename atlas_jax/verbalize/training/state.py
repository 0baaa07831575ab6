"""What a training of a verbalizer changes, and its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax.errors import InputError
from atlas_jax.files import read_tensors, write_tensors
from atlas_jax.outside import refusing

Losses = list[dict[str, float]]


class State(NamedTuple):
    """Low-rank changes, the optimiser's moments, and the steps that were made."""

    learned: Any
    moments: Any
    step: int
    losses: Losses


def save_state(state: State, path: Path, plan: str) -> None:
    """Writes the file, under its name only when whole."""
    leaves = jax.tree.leaves((state.learned, state.moments))
    tensors = {f"{i:04}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
    notes = {"plan": plan, "step": str(state.step), "losses": json.dumps(state.losses)}
    write_tensors(path, tensors, notes)


def load_state(like: State, path: Path, plan: str) -> State:
    """Reads the file; without one, gives `like` back.

    Raises:
        InputError: it is damaged, or of a training by another plan.
    """
    if not path.exists():
        return like
    remedy = "delete it and train again"
    notes, tensors = read_tensors(path, "checkpoint", remedy, header="losses")
    if notes.get("plan") != plan:
        raise InputError(
            f"Expected an unfinished training by this plan in {path.parent}, it holds another: use "
            f"another folder, or delete {path.name}."
        )
    with refusing(f"the checkpoint at {path}", "It is damaged: delete it and train again"):
        leaves = [jnp.asarray(tensors[name]) for name in sorted(tensors)]
        tree = jax.tree.structure((like.learned, like.moments))
        learned, moments = jax.tree.unflatten(tree, leaves)
        return State(learned, moments, int(notes["step"]), notes["losses"])
