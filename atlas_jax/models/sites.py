"""Sites: the named activations of a model, in TransformerLens spelling, and their edits."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from atlas_jax.errors import InputError
from atlas_jax.models.arch import Arch

POINTS = (
    "hook_resid_pre",
    "attn.hook_z",
    "hook_attn_out",
    "hook_resid_mid",
    "mlp.hook_post",
    "hook_mlp_out",
    "hook_resid_post",
)
"""The points of a block, in the order in which a forward pass reaches them.

`mlp.hook_post` is what enters the down projection: after the gate product, or after the activation
where there is no gate. `hook_attn_out` and `hook_mlp_out` are what is added to the residual stream
(after the post-norm of Gemma 2, Gemma 3 and OLMo 2). `attn.hook_z` holds the heads side by side,
(B, T, n_heads * d_head): `acts.reshape(B, T, n_heads, d_head)` is TransformerLens' array.
`hook_resid_mid` lies between attention and MLP, and is not there where they run side by side
(GPT-NeoX). `blocks.N.hook_resid_post` is `hidden_states[N + 1]` of transformers.
"""

_SITE = re.compile(r"blocks\.(\d+)\.(.+)")


@dataclass(frozen=True, order=True)
class Site:
    """A point of one layer."""

    layer: int
    point: str

    def __str__(self) -> str:
        return f"blocks.{self.layer}.{self.point}"


def points_of(arch: Arch) -> tuple[str, ...]:
    """The points that a model's blocks have."""
    return tuple(p for p in POINTS if not (arch.parallel and p == "hook_resid_mid"))


def parse_site(name: str, arch: Arch) -> Site:
    """Reads a site's name and checks that the model has it.

    Raises:
        InputError: naming the valid points, or the valid range of layers.
    """
    match = _SITE.fullmatch(name)
    points = points_of(arch)
    if not match or match[2] not in points:
        raise InputError(
            f"Expected a site like 'blocks.{arch.n_layers // 2}.mlp.hook_post' "
            f"(points of {arch.family}: {', '.join(points)}), got '{name}'."
        )
    layer = int(match[1])
    if layer >= arch.n_layers:
        raise InputError(
            f"Expected a site from blocks.0 to blocks.{arch.n_layers - 1} (this model has "
            f"{arch.n_layers} layers), got '{name}'."
        )
    return Site(layer, match[2])


def site_width(site: Site, arch: Arch) -> int:
    """Number of features d of a site."""
    if site.point == "mlp.hook_post":
        return arch.d_mlp
    return arch.n_heads * arch.d_head if site.point == "attn.hook_z" else arch.d_model


MODES = {"steer": 1, "add": 2, "ablate": 3, "clamp": 4}
"""What an edit does with activations a, a direction s and a strength lambda (u = s / ||s||):

    steer    a <- (a + lambda s) ||a|| / ||a + lambda s||   (eq. 4)
    add      a <- a + lambda s
    ablate   a <- a - lambda (a . u) u          (1 takes the direction out)
    clamp    a <- a + (lambda - a . u) u        (the component along u becomes lambda)

At strength 0 all but `clamp` leave the activations bit for bit; so does any of them where s = 0.
"""


@dataclass(frozen=True)
class Edit:
    """One intervention at one site.

    Attributes:
        site: where, e.g. `blocks.9.mlp.hook_post`.
        vector: s, (d,), usually the scores of a query.
        strength: lambda.
        mode: one of `MODES`; `steer` is equation 4 of the paper.
    """

    site: str
    vector: Float[Array | np.ndarray, " d"]
    strength: float
    mode: str = "steer"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EditStack:
    """The edits of one point for every layer and every text of a batch; zeros where there is none.

    The arrays have one shape whatever is edited, so one executable serves all layers, queries,
    strengths and modes.
    """

    vector: Float[Array, "layers batch d"]
    strength: Float[Array, "layers batch"]
    mode: Int[Array, "layers batch"]

    @classmethod
    def empty(cls, layers: int, batch: int, width: int) -> EditStack:
        """No edit anywhere."""
        return cls(
            jnp.zeros((layers, batch, width), jnp.float32),
            jnp.zeros((layers, batch), jnp.float32),
            jnp.zeros((layers, batch), jnp.int32),
        )


def stack_edits(edits: Iterable[Iterable[Edit]], arch: Arch) -> dict[str, EditStack]:
    """Stacks the edits of each text of a batch by point.

    Args:
        edits: for each text, its edits.

    Raises:
        InputError: an unknown site or mode, a vector of another width, or two edits of one text
            at one site.
    """
    rows = [list(row) for row in edits]
    slots: dict[tuple[str, int, int], Edit] = {}
    for text, row in enumerate(rows):
        for edit in row:
            site = parse_site(edit.site, arch)
            width = site_width(site, arch)
            if edit.vector.shape != (width,):
                raise InputError(
                    f"Expected a vector of {width} features for {edit.site}, got shape "
                    f"{tuple(edit.vector.shape)}. Was it made for another site?"
                )
            if edit.mode not in MODES:
                raise InputError(f"Expected a mode among {', '.join(MODES)}, got '{edit.mode}'.")
            key = (site.point, site.layer, text)
            if key in slots:
                raise InputError(f"Two edits at {edit.site} of one text: add their vectors.")
            slots[key] = edit
    stacks = {}
    for point in sorted({point for point, _, _ in slots}):
        width = site_width(Site(0, point), arch)
        mine = {(layer, text): e for (p, layer, text), e in slots.items() if p == point}
        index = tuple(jnp.array(axis) for axis in zip(*mine, strict=True))
        vectors = jnp.stack([jnp.asarray(e.vector, jnp.float32) for e in mine.values()])
        strengths = jnp.array([e.strength for e in mine.values()], jnp.float32)
        modes = jnp.array([MODES[e.mode] for e in mine.values()], jnp.int32)
        none = EditStack.empty(arch.n_layers, len(rows), width)
        stacks[point] = EditStack(
            none.vector.at[index].set(vectors),
            none.strength.at[index].set(strengths),
            none.mode.at[index].set(modes),
        )
    return stacks


def apply_edit(
    acts: Float[Array, "batch time d"],
    vector: Float[Array, "batch d"],
    strength: Float[Array, " batch"],
    mode: Int[Array, " batch"],
    where: Bool[Array, "batch time"],
) -> Float[Array, "batch time d"]:
    """Edits activations as `MODES` says, each text in its own mode.

    Norms and products are taken in float32 whatever the dtype. Where `where` is false or a text has
    no edit, the activations come back bit for bit.
    """
    plain = acts.astype(jnp.float32)
    length = jnp.linalg.norm(vector, axis=-1, keepdims=True)
    unit = vector / jnp.where(length > 0, length, 1.0)
    along = jnp.einsum("btd,bd->bt", plain, unit, precision=lax.Precision.HIGHEST)
    kind, factor = mode[:, None], strength[:, None]
    by_unit = jnp.where(kind == MODES["clamp"], factor - along, -factor * along)
    projects = kind >= MODES["ablate"]
    step = jnp.where(projects, by_unit, factor)[:, :, None]
    moved = plain + step * jnp.where(projects, unit, vector)[:, None, :]
    norm = jnp.linalg.norm(plain, axis=-1, keepdims=True)
    new_norm = jnp.linalg.norm(moved, axis=-1, keepdims=True)
    keeps_norm = (kind == MODES["steer"])[:, :, None]
    scale = jnp.where(keeps_norm, norm / jnp.where(new_norm > 0, new_norm, 1.0), 1.0)
    edited = (moved * scale).astype(acts.dtype)
    works = ((strength != 0) & (mode != 0)) | (mode == MODES["clamp"])
    active = (where & (works & (length[:, 0] > 0))[:, None])[:, :, None]
    return jnp.where(active, edited, acts)
