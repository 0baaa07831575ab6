"""An activation verbalizer: a language model that says in words what a vector means."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from atlas_jax.errors import InputError
from atlas_jax.journal import Journal, digest
from atlas_jax.outside import refusing
from atlas_jax.progress import Bar
from atlas_jax.verbalize.bridge import Bridge
from atlas_jax.verbalize.decoding import Edit, Rule, decode
from atlas_jax.verbalize.injection import Adapter, at_length, embed_prompt, prompt_ids
from atlas_jax.verbalize.sidecar import (
    BACKGROUND,
    Description,
    from_config,
    read_sidecar,
    read_yaml,
)
from atlas_jax.verbalize.washout import BARE, Background, Washout, realised_cosines, streams

_RESIDUAL = ("add_norm_matched", "replace_residual")


@dataclass(frozen=True)
class Explanation:
    """What a verbalizer said.

    Attributes:
        text: between the tags.
        raw: all that was written.
        complete: both tags were there.
        cosine: of what was read with the background; NaN without one.
    """

    text: str
    raw: str
    complete: bool
    cosine: float


class Verbalizer:
    """A verbalizer.

    Attributes:
        model: the language model that speaks.
        description: how it is asked.
        background: activations of the model it reads, for washouts; None: there are none yet.
        journal: where what was written is found again, once a run that was stopped goes on.
        ids: the prompt's token ids.
        position: of the marker among them.
    """

    def __init__(
        self, model: Any, description: Description, background: Background | None = None
    ) -> None:
        self.model, self.description, self.background = model, description, background
        self.journal = Journal(None)
        width = model.arch.d_model
        self.adapter = Adapter(description.adapter) if description.adapter else None
        if self.adapter is None and width != description.d_model:
            raise InputError(
                f"Expected vectors of the model's width {width}, the description says "
                f"{description.d_model}."
            )
        if self.adapter is not None and (
            self.adapter.projection.shape != (description.d_model, width)
            or self.adapter.prefix.shape[1:] != (width,)
        ):
            raise InputError(
                f"Expected an adapter with a projection {(description.d_model, width)} and a "
                f"prefix of width {width}, got {self.adapter.projection.shape} and "
                f"{self.adapter.prefix.shape}."
            )
        if description.layer is not None and not 0 <= description.layer < model.arch.n_layers:
            raise InputError(
                f"Expected a layer from 0 to {model.arch.n_layers - 1}, got {description.layer}."
            )
        self.ids, self.position = prompt_ids(model.tokenizer, description)
        encode = model.tokenizer.inner
        scaffold = [
            i for t in description.tags for i in encode(t, add_special_tokens=False)["input_ids"]
        ]
        ends = [model.tokenizer.eos_id, *model.stop_ids]
        self.structural = tuple(sorted({int(i) for i in (*scaffold, *ends) if i is not None}))

    def __repr__(self) -> str:
        d = self.description
        return f"Verbalizer({self.model.name!r} reads {d.model or '?'} {d.site}, {d.mode})"

    def check(self, bridge: Bridge) -> None:
        """Refuses a bridge that does not lead to what this verbalizer reads.

        Raises:
            InputError: another site, width or model.
        """
        target, d = bridge.meta.get("target", {}), self.description
        wanted = (d.site, d.d_model)
        there = (target.get("site"), target.get("width"))
        names = [
            str(name or "").rsplit("/", 1)[-1].lower() for name in (d.model, target.get("model"))
        ]
        if wanted != there or (all(names) and names[0] != names[1]):
            raise InputError(
                f"Expected a bridge to {d.model or 'a model'} {d.site} of width {d.d_model} (what "
                f"the verbalizer reads), this one leads to {target.get('model')} {there[0]} of "
                f"width {there[1]}."
            )

    def explain(
        self, direction: Float[np.ndarray, " d"], washout: Washout = BARE, **how: Any
    ) -> str:
        """What a direction means, in words.

        Args:
            direction: of the model that the verbalizer reads; `bridge.direction` makes one of
                that of another model.
            washout: what is done to it first.
            how: of `explain_all`.
        """
        return self.explain_all(np.asarray(direction)[None], washout, **how)[0][0].text

    def explain_all(
        self,
        directions: Float[np.ndarray, "n d"],
        washout: Washout = BARE,
        *,
        samples: int = 1,
        temperature: float | None = None,
        seed: int = 0,
        batch_streams: int = 32,
        bridge: Bridge | None = None,
    ) -> list[list[Explanation]]:
        """Explanations of several directions, `samples` of each.

        Args:
            directions: (n, d).
            washout: what is done to them first.
            samples: of each; with a temperature of 0 all are the same, and one is made.
            temperature: default: the description's.
            seed: of the samples.
            batch_streams: prompts run together.
            bridge: that the directions came over, to be checked.

        Raises:
            InputError: another width, a zero direction, or a washout without a background.
        """
        if bridge is not None:
            self.check(bridge)
        d = self.description
        if directions.ndim != 2 or directions.shape[1] != d.d_model:
            raise InputError(
                f"Expected directions of width {d.d_model} ({d.site}), got shape "
                f"{tuple(directions.shape)}."
            )
        heat = d.temperature if temperature is None else temperature
        vectors, count = streams(directions, washout, self.background)
        cosines = realised_cosines(vectors[:, 0], self.background)
        rule = Rule(count, washout.omega, washout.alpha, heat, self.structural)
        draws = samples if heat else 1
        size = max(1, batch_streams // vectors.shape[1])
        found: list[list[Explanation]] = [[] for _ in directions]
        with Bar("explaining", len(directions) * draws) as bar:
            for draw in range(draws):
                for start in range(0, len(directions), size):
                    rows = np.arange(start, start + size)
                    kept = rows[rows < len(directions)]
                    filled = np.minimum(rows, len(directions) - 1)  # one shape, compiled once
                    texts = self._write(vectors[filled], rule, seed + 7919 * draw + start)
                    for i, raw in zip(kept, texts, strict=False):
                        found[i].append(self.parse(raw, float(cosines[i])))
                    bar.advance(len(kept))
        return [row * (samples // draws) for row in found]

    def _write(self, vectors: Float[np.ndarray, "g s d"], rule: Rule, seed: int) -> list[str]:
        embeds, rows, edit = self.prepare(vectors)
        tokenizer = self.model.tokenizer.inner
        stops = self.description.stop_strings

        def text(ids: list[int]) -> str:
            return tokenizer.decode(ids, skip_special_tokens=False)

        def finished(ids: list[int]) -> bool:
            return any(stop in text(ids) for stop in stops)

        most = self.description.max_new_tokens
        how = edit and asdict(edit), asdict(rule), most, stops, seed
        key = digest(self.model.fingerprint, _hash(embeds), _hash(rows), *how)
        if key not in self.journal:
            new = decode(self.model, embeds, rows, edit, rule, most, seed, finished)
            self.journal.add([{"id": key, "texts": [text(ids) for ids in new]}])
        return self.journal[key]["texts"]

    def prepare(
        self, vectors: Float[np.ndarray, "g s d"]
    ) -> tuple[Float[Array, "g s t e"], Float[Array, "g s e"] | None, Edit | None]:
        """Embedded prompts that hold the vectors, or the vectors and where they go in."""
        d = self.description
        groups, count, width = vectors.shape
        flat = vectors.reshape(groups * count, width)
        natural = self.background.length if self.background is not None else None
        embedded = self.model.embed(np.array([self.ids]))[0]
        prefix = None if self.adapter is None else self.adapter.prefix
        if d.mode in _RESIDUAL:
            scale = 1.0 if d.mode == "add_norm_matched" else d.scale
            rows = at_length(flat, scale, natural).astype(np.float32)
            assert d.layer is not None
            edit = Edit(d.layer, self.position, d.mode == "replace_residual", d.coefficient)
            one = embed_prompt(embedded, self.position, None)[0]
            embeds = jnp.broadcast_to(one, (groups, count, *one.shape))
            return embeds, jnp.asarray(rows).reshape(groups, count, -1), edit
        rows = at_length(flat, d.scale, natural)
        if self.adapter is not None:
            rows = self.adapter.project(rows)
        embeds = embed_prompt(embedded, self.position, rows.astype(np.float32), prefix)
        return embeds.reshape(groups, count, *embeds.shape[1:]), None, None

    def parse(self, raw: str, cosine: float = float("nan")) -> Explanation:
        """The explanation between its tags; one that is not closed is kept and marked."""
        opening, closing = self.description.tags
        after = raw.split(opening, 1)[-1]
        text, closed, _ = after.partition(closing)
        complete = opening in raw and bool(closed)
        text = text.strip()
        if self.description.part == "last_paragraph" and text:
            text = [part for part in text.split("\n\n") if part.strip()][-1].strip()
        return Explanation(text, raw, complete, cosine)


def load_verbalizer(
    reference: str | os.PathLike[str],
    *,
    config: str | Path | Mapping[str, Any] | None = None,
    background: Background | str | Path | None = None,
    bridge: Bridge | None = None,
    dtype: str = "float32",
    mesh: Any = None,
    revision: str | None = None,
    load_model: Callable[..., Any] | None = None,
    **overrides: Any,
) -> Verbalizer:
    """Loads a verbalizer and checks every token id of its description against its tokenizer.

    Args:
        reference: a local folder in Hugging Face layout with `nla_meta.yaml`, a hub id, or a name
            in `config`.
        config: a YAML file with `verbalizers: {name: ...}`, or one such entry.
        background: for washouts, or a file of one; default: the checkpoint's own, if it has one.
        bridge: whose target it must read.
        dtype: of the weights, `float32` or `bfloat16`.
        mesh: where to place them.
        revision: of a hub id.
        load_model: another way to load the model.
        overrides: fields of `Description`.

    Raises:
        InputError: no description, another tokenizer, or a bridge to something else.
    """
    from atlas_jax.models.language_model import load_model as load
    from atlas_jax.models.lookup import find_checkpoint

    name = str(reference)
    if config is not None:
        entry = _entry(name, config)
        with refusing(f"the entry of {name} in the config"):
            checkpoint = dict(entry.get("checkpoint") or {})
            read = from_config(entry)
            bank = (entry.get("background") or {}).get("bank")
        name = str(checkpoint.get("id", name))
        revision, dtype = checkpoint.get("revision", revision), checkpoint.get("dtype", dtype)
        if checkpoint.get("adapter"):
            raise InputError(
                f"Expected a whole checkpoint, {name} is a LoRA adapter: merge it into its model "
                "first."
            )
        overrides = read | overrides
        background = background or bank
    folder = find_checkpoint(name, revision)
    description = read_sidecar(folder, overrides)
    model = (load_model or load)(str(folder), dtype, mesh)
    if background is None and (folder / BACKGROUND).is_file():
        background = folder / BACKGROUND
    if background is not None and not isinstance(background, Background):
        background = Background.load(background)
    made = Verbalizer(model, description, background)
    if bridge is not None:
        made.check(bridge)
    return made


def _hash(array: Array | None) -> str:
    return "" if array is None else hashlib.sha256(np.asarray(array).tobytes()).hexdigest()


def _entry(name: str, config: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(config, Mapping):
        return config
    found = read_yaml(Path(config)).get("verbalizers")
    if not isinstance(found, dict):
        raise InputError(f"Expected a table 'verbalizers:' in {config}, found none.")
    if not isinstance(found.get(name), dict):
        known = ", ".join(map(str, found))
        raise InputError(f"Expected one of {known} in {config}, got '{name}'.")
    return found[name]
