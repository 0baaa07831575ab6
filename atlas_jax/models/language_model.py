"""A language model: decoder, tokenizer and name; the object that reads, steers and generates."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from atlas_jax.errors import InputError
from atlas_jax.models.arch import Arch
from atlas_jax.models.checkpoint import Checkpoint
from atlas_jax.models.decoder import Decoder
from atlas_jax.models.families import read_arch
from atlas_jax.models.lookup import find_checkpoint
from atlas_jax.models.sites import Edit, EditStack, Site, parse_site, site_width, stack_edits
from atlas_jax.models.tokenizer import Tokenizer
from atlas_jax.models.weights import load_decoder
from atlas_jax.outside import read_json

PoolFunction = Callable[[Array, Array], Array]
_AGAIN = "Delete it and download it again"


@partial(jax.jit, static_argnames=("graph",))
def _embed(graph: Any, state: Any, tokens: Int[Array, "b t"]) -> Float[Array, "b t d"]:
    decoder: Decoder = nnx.merge(graph, state)
    return decoder.embed_tokens(tokens)


@partial(jax.jit, static_argnames=("graph", "taps"))
def _forward(
    graph: Any,
    state: Any,
    inputs: Int[Array, "b t"] | Float[Array, "b t d"],
    mask: Bool[Array, "b t"],
    edits: Mapping[str, EditStack],
    taps: tuple[Site, ...],
) -> tuple[Float[Array, "b t v"], dict[Site, Array]]:
    decoder: Decoder = nnx.merge(graph, state)
    x, acts, _ = decoder(decoder.embedded(inputs), mask, taps=taps, edits=edits)
    return decoder.logits(x), acts


@partial(jax.jit, static_argnames=("graph", "taps", "pool"))
def _read(
    graph: Any,
    state: Any,
    tokens: Int[Array, "b t"],
    mask: Bool[Array, "b t"],
    taps: tuple[Site, ...],
    pool: PoolFunction | None,
) -> dict[Site, Array]:
    decoder: Decoder = nnx.merge(graph, state)
    _, acts, _ = decoder(
        decoder.embed_tokens(tokens),
        mask,
        taps=taps,
        reduce=(lambda a: pool(a, mask)) if pool else (lambda a: a),
        depth=1 + max(site.layer for site in taps),
    )
    return acts


class LanguageModel:
    """A decoder with its tokenizer.

    Attributes:
        arch: its shape.
        name: what the user called it.
        fingerprint: a sha256 that names the exact weights and their dtype.
        stop_ids: tokens that end a generation, beside the tokenizer's own end of sequence.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        name: str,
        fingerprint: str,
        stop_ids: tuple[int, ...] = (),
    ) -> None:
        self.arch: Arch = decoder.arch
        self.tokenizer = tokenizer
        self.name = name
        self.fingerprint = fingerprint
        self.stop_ids = stop_ids
        self.graph, self.state = nnx.split(decoder)

    def __repr__(self) -> str:
        a = self.arch
        return (
            f"LanguageModel({self.name!r}, {a.family}, {a.n_layers} layers, d_model {a.d_model}, "
            f"d_mlp {a.d_mlp}, vocab {a.vocab_size})"
        )

    @property
    def n_params(self) -> int:
        """Number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.state))

    @property
    def mesh(self) -> Mesh | None:
        """The mesh that its weights lie on; None: one device."""
        mesh = getattr(jax.tree.leaves(self.state)[0].sharding, "mesh", None)
        return mesh if isinstance(mesh, Mesh) else None

    @property
    def context_length(self) -> int:
        """Tokens of a text that it was made for."""
        return self.arch.context_length

    @property
    def sites(self) -> tuple[str, ...]:
        """The MLP neurons of an early, a middle and a late layer."""
        n = self.arch.n_layers
        layers = sorted({n // 6, (n - 1) // 2, 3 * n // 4})
        return tuple(f"blocks.{layer}.mlp.hook_post" for layer in layers)

    def width(self, site: str) -> int:
        """Number of features of a site."""
        return site_width(parse_site(site, self.arch), self.arch)

    def embed(self, tokens: Int[Array, "b t"] | np.ndarray) -> Float[Array, "b t d"]:
        """Token embeddings (B, T, d), scaled as the family scales them (Gemma: by sqrt(d))."""
        return _embed(self.graph, self.state, jnp.asarray(tokens))

    def __call__(
        self,
        tokens: Int[Array, "b t"] | np.ndarray | None,
        mask: Bool[Array, "b t"] | np.ndarray,
        taps: Sequence[str] = (),
        edits: Sequence[Edit] | Sequence[Sequence[Edit]] = (),
        *,
        inputs_embeds: Float[Array, "b t d"] | np.ndarray | None = None,
    ) -> tuple[Float[Array, "b t v"], dict[str, Array]]:
        """Runs the whole model.

        Args:
            tokens: (B, T) ids.
            mask: True at real tokens; padding on either side.
            taps: sites to return.
            edits: edits of every text, or one list of edits for each.
            inputs_embeds: (B, T, d) in the place of `tokens`, which is then None; what `embed`
                gives, with rows exchanged as one likes.

        Returns:
            Logits (B, T, V) in float32 and {site: (B, T, d)}.

        Raises:
            InputError: an unknown site, a wrong edit, embeddings of another width, or more tokens
                than there are learned positions.
        """
        inputs = self.inputs(tokens, inputs_embeds)
        self.fits(mask)
        sites = tuple(parse_site(name, self.arch) for name in taps)
        stacks = stack_edits(each_text(edits, len(inputs)), self.arch)
        logits, acts = _forward(self.graph, self.state, inputs, jnp.asarray(mask), stacks, sites)
        return logits, {str(site): acts[site] for site in sites}

    def inputs(
        self,
        tokens: Int[Array, "b t"] | np.ndarray | None,
        inputs_embeds: Float[Array, "b t d"] | np.ndarray | None,
    ) -> Int[Array, "b t"] | Float[Array, "b t d"]:
        """Whichever of the two is given, checked."""
        if (tokens is None) == (inputs_embeds is None):
            raise InputError("Expected either tokens or inputs_embeds, got both or neither.")
        if inputs_embeds is None:
            return jnp.asarray(tokens)
        if inputs_embeds.ndim != 3 or inputs_embeds.shape[-1] != self.arch.d_model:
            raise InputError(
                f"Expected inputs_embeds of shape (B, T, {self.arch.d_model}) for {self.name}, got "
                f"{tuple(inputs_embeds.shape)}."
            )
        return jnp.asarray(inputs_embeds).astype(jax.tree.leaves(self.state)[0].dtype)

    def fits(self, mask: Array | np.ndarray, more: int = 0) -> None:
        """Refuses texts that exceed a table of learned positions, or, with `more` tokens to be
        written, what the model was made for."""
        limit = self.context_length if more else self.arch.positions
        if not limit or mask.shape[1] + more <= limit:
            return
        longest = int(np.asarray(mask).sum(axis=1).max()) + more
        if longest > limit:
            raise InputError(
                f"Expected at most {limit} tokens ({self.name} was made for no more), got "
                f"a text of {longest}{f', {more} of them to be written' if more else ''}. Cut it."
            )

    def read(
        self,
        tokens: Int[Array, "b t"] | np.ndarray,
        mask: Bool[Array, "b t"] | np.ndarray,
        sites: Sequence[str],
        pool: PoolFunction | None = None,
    ) -> dict[str, Array]:
        """Activations at some sites; layers above the last one are not run.

        Args:
            tokens: (B, T) ids.
            mask: True at real tokens.
            sites: names.
            pool: applied to each (B, T, d) with the mask inside the layer scan, so that the
                unpooled array is never kept; must be hashable and the same object every time.
        """
        self.fits(mask)
        wanted = tuple(parse_site(name, self.arch) for name in sites)
        acts = _read(self.graph, self.state, jnp.asarray(tokens), jnp.asarray(mask), wanted, pool)
        return {str(site): acts[site] for site in wanted}


def each_text(edits: Sequence[Edit] | Sequence[Sequence[Edit]], batch: int) -> list[Sequence[Edit]]:
    """Gives every text its own list of edits."""
    if not edits:
        return [()] * batch
    if isinstance(edits[0], Edit):
        return [edits] * batch  # type: ignore[list-item]
    if len(edits) != batch:
        raise InputError(
            f"Expected one list of edits for each of {batch} texts, got {len(edits)} lists."
        )
    return list(edits)  # type: ignore[arg-type]


def load_model(
    reference: str | os.PathLike[str],
    dtype: str = "float32",
    mesh: Mesh | None = None,
    revision: str | None = None,
) -> LanguageModel:
    """Loads a language model.

    Args:
        reference: an asset's name (`smollm2-135m-instruct`), a local folder in Hugging Face
            layout, a GGUF file, or a hub id (`meta-llama/Llama-3.1-8B`).
        dtype: `float32` or `bfloat16`.
        mesh: where to place the weights; split over its `model` axis.
        revision: of a hub id.

    Raises:
        InputError: unknown reference, a checkpoint this decoder does not implement, or one that
            is damaged.
    """
    if dtype not in ("float32", "bfloat16"):
        raise InputError(f"Expected dtype float32 or bfloat16, got '{dtype}'.")
    name = str(reference)
    folder = find_checkpoint(name, revision)
    name = Path(name).name if Path(name).expanduser().exists() else name
    config = read_json(folder / "config.json", remedy=_AGAIN)
    arch = read_arch(config)
    checkpoint = Checkpoint(folder)
    decoder = load_decoder(checkpoint, arch, dtype, mesh)
    fingerprint = f"{checkpoint.fingerprint()[:32]}-{dtype}"
    return LanguageModel(decoder, Tokenizer(folder), name, fingerprint, _stop_ids(folder, config))


def _stop_ids(folder: Path, config: Mapping[str, Any]) -> tuple[int, ...]:
    """The end-of-sequence ids that generation_config.json names, else config.json."""
    file = folder / "generation_config.json"
    settings = read_json(file, remedy=_AGAIN) if file.exists() else {}
    ids = settings.get("eos_token_id", config.get("eos_token_id"))
    found = tuple(ids) if isinstance(ids, list) else (() if ids is None else (ids,))
    if not all(type(i) is int for i in found):
        raise InputError(f"Expected token ids as eos_token_id in {folder}, got {ids!r}.")
    return found
