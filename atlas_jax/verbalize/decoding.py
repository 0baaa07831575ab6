"""Decoding from several streams that write one text: each reads another vector.

    score = mean_i log p(y | stream i) - omega mean_j log p(y | stream j)

over the streams for and those against, on the tokens {y : p(y) >= alpha max p} of the former. One
stream for and none against is ordinary decoding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from atlas_jax.models.attention import Cache
from atlas_jax.models.decoder import Decoder
from atlas_jax.models.sites import Site

_EVERY = 16


@dataclass(frozen=True)
class Rule:
    """How a token is chosen.

    Attributes:
        count_for: streams for; those that follow are against.
        omega: weight of the streams against.
        alpha: of the plausibility mask.
        temperature: 0 is greedy; applied after the mask.
        structural: ids of the fixed scaffold (tags, end of sequence): where one of them is the
            most likely token, nothing is subtracted, because the streams against carry the grammar.
    """

    count_for: int = 1
    omega: float = 0.0
    alpha: float = 0.1
    temperature: float = 0.0
    structural: tuple[int, ...] = ()


@dataclass(frozen=True)
class Edit:
    """What happens to the prompt's residual stream at one position of one layer's output.

    Attributes:
        layer: whose output.
        position: in the prompt.
        replace: set to the vector; else add it at the length of what is there.
        coefficient: of what is added.
    """

    layer: int
    position: int
    replace: bool
    coefficient: float = 1.0


def combine(log_p: Float[Array, "g s v"], rule: Rule) -> Float[Array, "g v"]:
    """The score of each next token, -inf where it is implausible."""
    wanted = jnp.mean(log_p[:, : rule.count_for], axis=1)
    if rule.count_for == log_p.shape[1]:
        return wanted
    against = jnp.mean(log_p[:, rule.count_for :], axis=1)
    best = jnp.max(wanted, axis=-1, keepdims=True)
    score = wanted - jnp.float32(rule.omega) * against
    score = jnp.where(wanted >= best + jnp.log(jnp.float32(rule.alpha)), score, -jnp.inf)
    if not rule.structural:
        return score
    ids = jnp.array(rule.structural, jnp.int32)
    fixed = jnp.any(jnp.argmax(wanted, axis=-1)[:, None] == ids[None, :], axis=1)
    return jnp.where(fixed[:, None], wanted, score)


def decode(
    model: Any,
    embeds: Float[Array, "g s t d"],
    vectors: Float[Array, "g s d"] | None,
    edit: Edit | None,
    rule: Rule,
    max_new: int,
    seed: int,
    finished: Callable[[list[int]], bool],
) -> list[list[int]]:
    """New token ids of each group; the streams of a group read different rows and write one text.

    Args:
        model: a `LanguageModel`.
        embeds: the prompts.
        vectors: for `edit`.
        edit: of the residual stream; None where the embeddings hold the vectors.
        rule: how tokens are chosen.
        max_new: at most.
        seed: of the samples.
        finished: whether a text is complete, such as at a stop string.
    """
    groups, streams, time, width = embeds.shape
    flat = embeds.reshape(groups * streams, time, width)
    more = None if vectors is None else vectors.reshape(groups * streams, width)
    stops = sorted({i for i in (model.tokenizer.eos_id, *model.stop_ids) if i is not None})
    ids = jnp.array(stops or [-1], jnp.int32)
    loop = _start(model.graph, model.state, flat, more, groups=groups, edit=edit, max_new=max_new)
    key = jax.random.key(np.uint32(seed))
    texts: list[list[int]] = [[] for _ in range(groups)]
    for limit in range(_EVERY, max_new + _EVERY, _EVERY):
        until = jnp.int32(min(limit, max_new))
        loop = _advance(model.graph, model.state, loop, key, ids, until, rule=rule)
        new, lengths, done = (np.asarray(loop[i]) for i in (1, 2, 3))
        texts = [row[:length].tolist() for row, length in zip(new, lengths, strict=True)]
        done = done | np.array([finished(text) for text in texts])
        if done.all():
            break
        loop = (*loop[:3], jnp.asarray(done), *loop[4:])
    return texts


@partial(jax.jit, static_argnames=("graph", "groups", "edit", "max_new"))
def _start(
    graph: Any,
    state: Any,
    embeds: Float[Array, "b t d"],
    vectors: Float[Array, "b d"] | None,
    *,
    groups: int,
    edit: Edit | None,
    max_new: int,
) -> tuple:
    """Reads the prompts: step, new tokens, lengths, done, the last residuals, the cache."""
    decoder: Decoder = nnx.merge(graph, state)
    batch, time, _ = embeds.shape
    swaps = {}
    if edit is not None and vectors is not None:
        there, rows = edit, vectors

        def swap(h: Array) -> Array:
            old = h[:, there.position].astype(jnp.float32)
            new = rows.astype(jnp.float32)
            if not there.replace:
                size = jnp.linalg.norm(old, axis=-1, keepdims=True)
                unit = new / jnp.linalg.norm(new, axis=-1, keepdims=True)
                new = old + there.coefficient * size * unit
            return h.at[:, there.position].set(new.astype(h.dtype))

        swaps[Site(edit.layer, "hook_resid_post")] = swap
    mask = jnp.ones((batch, time), bool)
    cache = Cache.empty(decoder.arch, batch, time + max_new, decoder.embed[...].dtype)
    x, _, cache = decoder(embeds, mask, swaps=swaps, cache=cache)
    new = jnp.zeros((groups, max_new), jnp.int32)
    lengths = jnp.zeros((groups,), jnp.int32)
    return jnp.int32(0), new, lengths, jnp.zeros((groups,), bool), x[:, -1:], cache


@partial(jax.jit, static_argnames=("graph", "rule"), donate_argnames=("loop",))
def _advance(
    graph: Any,
    state: Any,
    loop: tuple,
    key: PRNGKeyArray,
    stops: Int[Array, " stops"],
    limit: Int[Array, ""],
    *,
    rule: Rule,
) -> tuple:
    """Chooses and reads tokens up to step `limit`, or until all texts are done."""
    decoder: Decoder = nnx.merge(graph, state)
    groups = loop[1].shape[0]

    def unfinished(loop: tuple) -> Bool[Array, ""]:
        return (loop[0] < limit) & ~jnp.all(loop[3])

    def advance(loop: tuple) -> tuple:
        step, new, lengths, done, x, cache = loop
        log_p = jax.nn.log_softmax(decoder.logits(x[:, -1]), axis=-1)
        streams = log_p.shape[0] // groups
        score = combine(log_p.reshape(groups, streams, -1), rule)
        if rule.temperature == 0:
            chosen = jnp.argmax(score, axis=-1).astype(jnp.int32)
        else:
            here = jax.random.fold_in(key, step)
            chosen = jax.random.categorical(here, score / rule.temperature).astype(jnp.int32)
        done = done | jnp.any(chosen[:, None] == stops[None, :], axis=1)
        new = lax.dynamic_update_slice(new, chosen[:, None], (jnp.int32(0), step))
        lengths = jnp.where(done, lengths, step + 1)
        tokens = jnp.repeat(chosen, streams)[:, None]
        going = jnp.repeat(~done, streams)[:, None]
        x, _, cache = decoder(decoder.embed_tokens(tokens), going, cache=cache)
        return step + 1, new, lengths, done, x, cache

    return lax.while_loop(unfinished, advance, loop)
