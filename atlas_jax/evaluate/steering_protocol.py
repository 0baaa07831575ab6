"""The paper's steering protocol as data: ten concepts, sixteen prompts, seven strengths."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from atlas_jax.errors import InputError
from atlas_jax.query import Query


@dataclass(frozen=True)
class SteeringProtocol:
    """What is steered towards, from where, and how strongly (appendix A.7 and tables 6 and 8).

    Attributes:
        queries: {concept: features of the paper's atlas, each of weight 1}.
        prompts: what is continued; as varied as the paper's, in this project's words.
        strengths: lambda, 0 included.
        max_new_tokens: of a continuation.
        qualitative: {concept: (features, strength)} of the printed examples (table 2).
        qualitative_prompt: what these continue.
        identified: {concept: features} of the printed neurons (table 1).
        layers: of the subject.
        atlas_name: the paper's atlas.
        atlas_site: its site.
        atlas_features: its width.
    """

    queries: Mapping[str, tuple[int, ...]]
    prompts: tuple[str, ...]
    strengths: tuple[float, ...]
    max_new_tokens: int
    qualitative: Mapping[str, tuple[tuple[int, ...], float]]
    qualitative_prompt: str
    identified: Mapping[str, tuple[int, ...]]
    layers: tuple[int, ...]
    atlas_name: str
    atlas_site: str
    atlas_features: int

    def fits(self, atlas: Any) -> bool:
        """Whether the feature numbers are those of this atlas."""
        return atlas.site == self.atlas_site and atlas.sae.n_features == self.atlas_features


@cache
def paper_protocol() -> SteeringProtocol:
    """The protocol that ships."""
    text = files("atlas_jax.evaluate").joinpath("steering_protocol.json").read_text("utf-8")
    data = json.loads(text)
    return SteeringProtocol(
        queries={name: tuple(features) for name, features in data["queries"].items()},
        prompts=tuple(data["prompts"]),
        strengths=tuple(float(strength) for strength in data["strengths"]),
        max_new_tokens=data["max_new_tokens"],
        qualitative={
            name: (tuple(one["features"]), float(one["strength"]))
            for name, one in data["qualitative"].items()
        },
        qualitative_prompt=data["qualitative_prompt"],
        identified={name: tuple(features) for name, features in data["identified"].items()},
        layers=tuple(data["layers"]),
        atlas_name=data["atlas"]["name"],
        atlas_site=data["atlas"]["site"],
        atlas_features=data["atlas"]["n_features"],
    )


def protocol_queries(
    atlas: Any, concepts: Sequence[str] | None = None
) -> tuple[dict[str, Query], dict[str, str]]:
    """The protocol's queries in the coordinates of an atlas.

    By the paper's feature numbers in the paper's atlas, by the concept's name in any other.

    Args:
        atlas: whose.
        concepts: their names, which need not be the paper's; default: the paper's ten.

    Returns:
        {concept: query}, and {concept: reason} of those that the atlas has no features for.

    Raises:
        InputError: the atlas has features for none of them.
    """
    protocol = paper_protocol()
    names = list(protocol.queries) if concepts is None else list(concepts)
    found: dict[str, Query] = {}
    missing: dict[str, str] = {}
    for name in names:
        try:
            if name in protocol.queries and protocol.fits(atlas):
                found[name] = atlas.query(features=protocol.queries[name])
            else:
                found[name] = atlas.query(text=name)
        except InputError as error:
            missing[name] = str(error)
    if not found:
        reason = next(iter(missing.values()), "no concept was named")
        raise InputError(f"Expected concepts that the atlas {atlas.name} knows: {reason}")
    return found, missing
