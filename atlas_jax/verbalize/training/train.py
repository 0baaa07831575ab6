"""Training an activation verbalizer: a model learns to say what its own states are about.

The model is copied; at one place of a short prompt the copy reads a state h of the model instead of
its own, h scale / ||h||, and learns to answer with the words that characterise the text that h is
from. Its weights stay, and low-rank changes of all projections are learned. In the mode
`replace_residual` the state goes in where it came from, at the output of the same layer, which the
layers above can read from the start; in `replace_embedding` it takes the place of an embedding.

So that it also reads directions, which lie at other angles to the mean state b than states do, the
angle of each state to b is multiplied by a number drawn anew each time (`stretch`).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from atlas_jax.errors import InputError
from atlas_jax.files import read_json, sealed, write_json
from atlas_jax.models.lookup import find_checkpoint
from atlas_jax.models.sites import Site, parse_site
from atlas_jax.models.tokenizer import Tokenizer
from atlas_jax.progress import Bar
from atlas_jax.verbalize.sidecar import BACKGROUND
from atlas_jax.verbalize.training.data import TrainingData
from atlas_jax.verbalize.training.examples import record_examples
from atlas_jax.verbalize.training.low_rank import merged
from atlas_jax.verbalize.training.plan import TrainingPlan
from atlas_jax.verbalize.training.prompt import TEMPLATE, Prompt, make_prompt, plain_tokenizer
from atlas_jax.verbalize.training.saving import save_checkpoint, save_description
from atlas_jax.verbalize.training.state import State, load_state, save_state
from atlas_jax.verbalize.training.step import Trainer
from atlas_jax.verbalize.training.words import WordTable


def train_verbalizer(
    model: Any,
    site: str,
    texts: Any,
    out: str | os.PathLike[str],
    plan: TrainingPlan | None = None,
    *,
    base: str | os.PathLike[str] | None = None,
    checkpoint_steps: int = 50,
    report: Callable[[str], None] | None = None,
) -> Path:
    """Trains a verbalizer of a model's states and saves it for `load_verbalizer`.

    Args:
        model: a `LanguageModel`, in float32.
        site: `blocks.N.hook_resid_post` of it.
        texts: `Texts`, or a list of texts; a sixteenth of the documents is held out.
        out: the folder. A training that was stopped goes on from there, to the same bits; a
            finished one by the same plan is left as it is.
        plan: how to train.
        base: where the model's config.json and tokenizer are; default: looked up by its name.
        checkpoint_steps: steps between checkpoints.
        report: called with a line now and then.

    Returns:
        The folder.

    Raises:
        InputError: another kind of site, too few texts, or a folder with another training.
    """
    out, plan = Path(out), plan or TrainingPlan()
    place = parse_site(site, model.arch)
    if place.point != "hook_resid_post":
        raise InputError(f"Expected a site blocks.N.hook_resid_post, got '{site}'.")
    folder = find_checkpoint(str(base or model.name))
    tokenizer = plain_tokenizer(folder)
    prompt = make_prompt(tokenizer)
    table = WordTable.of(texts, plan.drawing.least, plan.drawing.most)
    examples = record_examples(model, site, texts, out / "examples", plan.drawing, table)
    data = TrainingData.of(examples, tokenizer, prompt, plan, model)
    name = json.dumps(
        {"plan": asdict(plan), "model": model.fingerprint, "site": site, "data": data.about()},
        sort_keys=True,
    )
    log = out / "training.json"
    if log.exists():
        found = read_json(log, "log of a training", "delete it and train again")
        if found.get("name") == name:
            return out
        raise InputError(
            f"Expected a verbalizer trained by this plan in {out}, found another: use another "
            "folder."
        )
    trainer = Trainer(model, place, prompt, plan)
    checkpoint = out / "training.safetensors"
    state = _steps(
        trainer,
        data,
        load_state(trainer.start(), checkpoint, name),
        plan,
        lambda state: save_state(state, checkpoint, name),
        checkpoint_steps,
        report,
    )
    save_description(out, folder, tokenizer, _sidecar(model, place, tokenizer, prompt, plan, data))
    save_checkpoint(out, model.arch, merged(trainer.graph, state.learned, trainer.frozen))
    data.background.save(out / BACKGROUND)
    write_json(log, sealed({"name": name, "losses": state.losses}))
    checkpoint.unlink(missing_ok=True)
    return out


def _steps(
    trainer: Trainer,
    data: TrainingData,
    state: State,
    plan: TrainingPlan,
    save: Callable[[State], None],
    checkpoint_steps: int,
    report: Callable[[str], None] | None,
) -> State:
    """All steps that are left; saves now and then, and then measures what is held out."""
    began, first, recent = time.monotonic(), state.step, []
    held = data.held()
    with Bar("training the verbalizer", plan.steps) as bar:
        bar.advance(first)
        for step in range(first, plan.steps):
            batch = data.batch(step, plan.batch, plan.seed)
            learned, moments, loss = trainer.step(state, batch)
            recent.append(loss)
            state = State(learned, moments, step + 1, state.losses)
            bar.advance()
            last = step + 1 == plan.steps
            if (step + 1) % checkpoint_steps and not last:
                continue
            entry = {"step": step + 1, "loss": round(float(np.mean(jax.device_get(recent))), 5)}
            if held is not None:
                entry["held_out"] = round(trainer.loss(state.learned, held, plan.batch), 5)
            if not np.isfinite(entry["loss"]):
                raise InputError(
                    f"The loss is {entry['loss']} at step {step + 1}: use a smaller rate than "
                    f"{plan.rate}."
                )
            state, recent = state._replace(losses=[*state.losses, entry]), []
            if not last:
                save(state)
            if report:
                pace = (time.monotonic() - began) / (step + 1 - first)
                left = pace * (plan.steps - step - 1) / 60
                report(
                    f"step {step + 1}/{plan.steps} {entry}, {pace:.2f} s/step, {left:.0f} min left"
                )
    return state


def _sidecar(
    model: Any,
    place: Site,
    tokenizer: Tokenizer,
    prompt: Prompt,
    plan: TrainingPlan,
    data: TrainingData,
) -> dict[str, Any]:
    injection: dict[str, Any] = {"mode": plan.mode}
    if plan.mode == "replace_residual":
        injection["layer"] = place.layer
    at = prompt.position
    return {
        "kind": "nla_model",
        "schema_version": 2,
        "role": "av",
        "stage": "sft",
        "base_model": model.name,
        "d_model": model.arch.d_model,
        "extraction_layer_index": place.layer,
        "extraction": {"injection_scale": data.scale},
        "injection": injection,
        "decode": {"max_new_tokens": plan.longest},
        "tokens": {
            "injection_char": prompt.marker,
            "injection_token_id": prompt.ids[at],
            "injection_left_neighbor_id": prompt.ids[at - 1],
            "injection_right_neighbor_id": prompt.ids[at + 1],
        },
        "prompt_templates": {"av": TEMPLATE},
    }
