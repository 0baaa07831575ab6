"""What an activation verbalizer (AV) is: its `nla_meta.yaml`, or a config that completes it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from atlas_jax.errors import InputError
from atlas_jax.outside import check_fields, refusing

MODES = ("replace_embedding", "add_norm_matched", "replace_residual", "prefix_adapter")
_TEMPLATES = ("av", "actor", "verbalizer")
SIDECAR = "nla_meta.yaml"
BACKGROUND = "background/activations.safetensors"
"""Of the model that is read, where a checkpoint brings them: for washouts."""


@dataclass(frozen=True)
class Description:
    """How a verbalizer is asked.

    Attributes:
        model: whose activations it reads; "" where the sidecar does not say.
        block: the block whose output (`blocks.N.hook_resid_post`) it reads.
        d_model: width of that.
        template: the user's turn, with `{injection_char}` where the vector goes.
        marker: (character, token id, id to its left, id to its right).
        mode: `replace_embedding`: the marker's embedding becomes v scale / ||v||.
            `add_norm_matched`: h + coefficient ||h|| v / ||v|| at the output of `layer`.
            `replace_residual`: h becomes v scale / ||v|| there.
            `prefix_adapter`: the embeddings of tokens before the prompt become rows of the file
            `adapter`, and the marker's the vector sent through its projection.
        layer: block whose output is edited, for the residual modes.
        scale: length of the vector as it goes in; None: its own (`raw`).
        coefficient: of `add_norm_matched`.
        adapter: a safetensors file with `prefix` (n, d) and `projection` (d, d_model).
        max_new_tokens, temperature, stop_strings: of the decoding.
        tags: what opens and closes the explanation.
        part: `full`, or `last_paragraph`.
    """

    block: int
    d_model: int
    template: str
    marker: tuple[str, int, int, int]
    model: str = ""
    mode: str = "replace_embedding"
    layer: int | None = None
    scale: float | None = None
    coefficient: float = 1.0
    adapter: str = ""
    max_new_tokens: int = 200
    temperature: float = 0.0
    stop_strings: tuple[str, ...] = ("</explanation>",)
    tags: tuple[str, str] = ("<explanation>", "</explanation>")
    part: str = "full"

    def __post_init__(self) -> None:
        check_fields(self, "a verbalizer's description")
        if not 0 < self.d_model < 1 << 24 or not 0 <= self.block < 1 << 16:
            raise InputError(
                f"Expected a d_model and a block of a verbalizer, got {self.d_model} and "
                f"{self.block}."
            )
        if self.max_new_tokens < 1 or self.temperature < 0 or not all(self.tags):
            raise InputError(
                "Expected max_new_tokens of at least 1, a temperature of at least 0 and tags, got "
                f"{self.max_new_tokens}, {self.temperature} and {self.tags}."
            )
        if self.mode not in MODES:
            raise InputError(f"Expected an injection among {', '.join(MODES)}, got '{self.mode}'.")
        if self.mode in ("add_norm_matched", "replace_residual") and self.layer is None:
            raise InputError(f"Expected the layer of {self.mode}, got none: set injection.layer.")
        if (self.mode == "prefix_adapter") != bool(self.adapter):
            raise InputError("Expected injection.adapter with prefix_adapter, and only with it.")
        if self.template.count("{injection_char}") != 1:
            raise InputError(
                "Expected a prompt with {injection_char} once, got it "
                f"{self.template.count('{injection_char}')} times."
            )
        if self.part not in ("full", "last_paragraph"):
            raise InputError(f"Expected part full or last_paragraph, got '{self.part}'.")

    @property
    def site(self) -> str:
        """What it reads."""
        return f"blocks.{self.block}.hook_resid_post"

    def with_values(self, values: Mapping[str, Any]) -> Description:
        """Some values replaced.

        Raises:
            InputError: an unknown name.
        """
        known = {f.name for f in fields(self)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InputError(
                f"Expected settings among {', '.join(sorted(known))}, got {', '.join(unknown)}."
            )
        return replace(self, **values)


def read_sidecar(folder: Path, overrides: Mapping[str, Any] | None = None) -> Description:
    """Reads the sidecar of a checkpoint, of schema 1 or 2.

    Tables `injection`, `decode` and `parse`, which released ones do not have, are read as those of
    a config.

    Args:
        folder: of the checkpoint.
        overrides: fields of `Description` that complete or replace what it says; all that are
            needed where there is no sidecar.

    Raises:
        InputError: no sidecar, a reconstructor's, or one without what is needed.
    """
    overrides = dict(overrides or {})
    path = folder / SIDECAR
    if not path.is_file():
        needed = ("block", "d_model", "template", "marker", "scale")
        if any(name not in overrides for name in needed):
            raise InputError(
                f"Expected {SIDECAR} in {folder}, found none: describe the verbalizer with "
                f"{', '.join(needed)}."
            )
        return Description(**_tuples(overrides))
    data = read_yaml(path)
    with refusing(str(path)):
        return _describe(path, data, overrides)


def _describe(path: Path, data: Mapping[str, Any], overrides: Mapping[str, Any]) -> Description:
    kind, role = data.get("kind", "nla_model"), str(data.get("role", "av"))
    if kind != "nla_model" or role not in _TEMPLATES:
        raise InputError(
            f"Expected a verbalizer (role {' or '.join(_TEMPLATES)}) in {path}, got {kind} with "
            f"role '{role}': a reconstructor reads text, not vectors."
        )
    tokens, templates = data.get("tokens") or {}, data.get("prompt_templates") or {}
    critic = data.get("critic") or {}
    block = _first(data.get("extraction_layer_index"), critic.get("extraction_layer_index"))
    if block is None and critic.get("num_hidden_layers") is not None:
        block = int(critic["num_hidden_layers"]) - 1
    template = next((templates[name] for name in _TEMPLATES if name in templates), None)
    width = data.get("d_model")
    names = ("char", "token_id", "left_neighbor_id", "right_neighbor_id")
    marker = [tokens.get(f"injection_{name}") for name in names]
    found = {
        "block": block,
        "d_model": width,
        "template": template,
        "marker": None if None in marker else tuple(marker),
        "model": str(data.get("base_model") or data.get("model") or ""),
    }
    extraction = data.get("extraction") or {}
    if "injection_scale" in extraction:
        found["scale"] = resolve_scale(extraction["injection_scale"], width)
    elif "scale" not in overrides and overrides.get("mode") != "add_norm_matched":
        raise InputError(
            f"Expected extraction.injection_scale in {path}, found none: pass scale=... (a number; "
            "None for the vector's own length)."
        )
    found |= from_config({key: data.get(key) for key in ("injection", "decode", "parse")})
    found |= overrides
    missing = [name for name, value in found.items() if value is None and name != "scale"]
    if missing:
        raise InputError(f"Expected {', '.join(missing)} in {path}, found none: pass them.")
    return Description(**_tuples(found))


def resolve_scale(value: Any, width: int | None) -> float | None:
    """The length of an injected vector: a number, `sqrt_d_model`, or its own (`raw`, null)."""
    if value is None or value == "raw":
        return None
    if value == "sqrt_d_model":
        return math.sqrt(float(width or 0))
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e300:
        raise InputError(
            f"Expected an injection scale above 0, sqrt_d_model, raw or null, got {value!r}."
        )
    return float(value)


def from_config(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides of a config entry (`reads`, `injection`, `prompt`, `decode`, `parse`)."""
    reads, injection = entry.get("reads") or {}, entry.get("injection") or {}
    decode, parse = entry.get("decode") or {}, entry.get("parse") or {}
    if "hidden_states_index" in reads and reads["hidden_states_index"] != reads["block"] + 1:
        raise InputError(
            "Expected hidden_states_index = block + 1 (the block's output), got "
            f"{reads['hidden_states_index']} and block {reads['block']}."
        )
    wanted: dict[str, Any] = {
        key: reads[key] for key in ("model", "block", "d_model") if key in reads
    }
    for key in ("mode", "layer", "coefficient", "adapter"):
        if injection.get(key) is not None:
            wanted[key] = injection[key]
    if "scale" in injection:
        wanted["scale"] = resolve_scale(injection["scale"], reads.get("d_model"))
    marker = injection.get("marker") or {}
    if marker:
        wanted["marker"] = tuple(marker[key] for key in ("char", "id", "left", "right"))
    template = (entry.get("prompt") or {}).get("template", "from_sidecar")
    if template != "from_sidecar":
        wanted["template"] = template
    for key in ("temperature", "max_new_tokens", "stop_strings"):
        if key in decode:
            wanted[key] = decode[key]
    if "open" in parse:
        wanted["tags"] = (parse["open"], parse["close"])
    if "part" in parse:
        wanted["part"] = parse["part"]
    return _tuples(wanted)


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def read_yaml(path: Path) -> dict[str, Any]:
    """A sidecar's table.

    Raises:
        InputError: no valid YAML, or no table.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):  # a few of them can stand for gigabytes
                raise yaml.YAMLError("it has aliases (*name)")
            return super().compose_node(parent, index)

    with refusing(f"{path} as YAML"):
        data = yaml.load(path.read_text("utf-8"), Loader)
    if not isinstance(data, dict):
        raise InputError(f"Expected a table in {path}, got {type(data).__name__}.")
    return data
