"""Generation with a key-value cache, every text of a batch under its own edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from atlas_jax.errors import InputError
from atlas_jax.models.attention import Cache
from atlas_jax.models.decoder import Decoder
from atlas_jax.models.language_model import LanguageModel, each_text
from atlas_jax.models.sites import Edit, EditStack, stack_edits
from atlas_jax.progress import Bar

_PROMPT_STEP = 16


def generate(
    model: LanguageModel,
    prompts: Sequence[str],
    edits: Sequence[Edit] | Sequence[Sequence[Edit]] = (),
    max_new_tokens: int = 100,
    *,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    edit_prompt: bool = True,
    batch_size: int = 32,
    progress: str = "generating",
) -> list[str]:
    """Continues prompts.

    Args:
        model: the subject.
        prompts: texts to continue; they may differ in length.
        edits: edits of every text, or one list of edits for each prompt (`steer` makes them).
        max_new_tokens: upper bound; a text ends earlier at an end-of-sequence token.
        temperature: 0 is greedy.
        top_k: sample among the k most likely tokens (0: all).
        top_p: sample among the fewest tokens whose probabilities reach p.
        seed: of the samples.
        edit_prompt: also edit the prompt's positions, not just the generated ones.
        batch_size: texts generated together.
        progress: label of the progress bar.

    Returns:
        The continuations, without their prompts.

    Raises:
        InputError: no prompts, an unknown site, or a vector of another width.
    """
    if not prompts:
        raise InputError("Expected at least one prompt, got none.")
    if max_new_tokens < 1 or temperature < 0 or not 0 < top_p <= 1 or top_k < 0:
        raise InputError(
            "Expected max_new_tokens >= 1, temperature >= 0, 0 < top_p <= 1 and top_k >= 0, got "
            f"{max_new_tokens}, {temperature}, {top_p} and {top_k}."
        )
    rows = model.tokenizer.encode_batch(list(prompts))
    rows = [row or [model.tokenizer.bos_id or model.tokenizer.pad_id] for row in rows]
    # Left padding to one length of few, so that prompts of like length share an executable.
    longest = -(-max(map(len, rows)) // _PROMPT_STEP) * _PROMPT_STEP
    per_text = each_text(edits, len(rows))
    points = sorted(
        {e.site.split(".", 2)[2] for row in per_text for e in row if e.site.count(".") > 1}
    )
    texts: list[str] = []
    size = min(batch_size, len(rows))
    with Bar(progress, len(rows)) as bar:
        for start in range(0, len(rows), size):
            part, mine = rows[start : start + size], list(per_text[start : start + size])
            filler = size - len(part)
            tokens, mask = model.tokenizer.pad(part + [part[0]] * filler, longest, left=True)
            stacks = stack_edits(mine + [()] * filler, model.arch)
            stacks = _with_points(stacks, points, model, size)
            out = _generate(
                model.graph,
                model.state,
                jnp.asarray(tokens),
                jnp.asarray(mask),
                stacks,
                jax.random.key(np.uint32(seed + start)),
                jnp.float32(temperature),
                jnp.float32(top_p),
                _stop_ids(model),
                max_new=max_new_tokens,
                greedy=temperature == 0,
                top_k=top_k,
                edit_prompt=edit_prompt,
            )
            for new, length in zip(*map(np.asarray, out), strict=True):
                texts.append(model.tokenizer.decode(new[:length]))
            del texts[start + len(part) :]
            bar.advance(len(part))
    return texts


def _with_points(
    stacks: dict[str, EditStack], points: list[str], model: LanguageModel, batch: int
) -> dict[str, EditStack]:
    """Adds empty stacks, so that every batch of one call has the same structure."""
    from atlas_jax.models.sites import Site, site_width

    shape = (model.arch.n_layers, batch)
    for point in points:
        if point not in stacks:
            width = site_width(Site(0, point), model.arch)
            stacks[point] = EditStack(jnp.zeros((*shape, width)), jnp.zeros(shape))
    return stacks


def _stop_ids(model: LanguageModel) -> Int[Array, " stops"]:
    ids = {model.tokenizer.eos_id, *model.stop_ids}
    return jnp.array(sorted(i for i in ids if i is not None) or [-1], jnp.int32)


@partial(jax.jit, static_argnames=("graph", "max_new", "greedy", "top_k", "edit_prompt"))
def _generate(
    graph: Any,
    state: Any,
    tokens: Int[Array, "b t"],
    mask: Bool[Array, "b t"],
    edits: Mapping[str, EditStack],
    key: PRNGKeyArray,
    temperature: Float[Array, ""],
    top_p: Float[Array, ""],
    stops: Int[Array, " stops"],
    *,
    max_new: int,
    greedy: bool,
    top_k: int,
    edit_prompt: bool,
) -> tuple[Int[Array, "b new"], Int[Array, " b"]]:
    """Prefills the cache, then decodes until every text has stopped. Returns ids and lengths."""
    decoder: Decoder = nnx.merge(graph, state)
    batch, time = tokens.shape
    cache = Cache.empty(decoder.arch, batch, time + max_new, decoder.embed[...].dtype)
    x, _, cache = decoder(
        decoder.embed_tokens(tokens),
        mask,
        edits=edits,
        editable=mask if edit_prompt else jnp.zeros_like(mask),
        cache=cache,
    )

    def choose(step: Array, x: Array) -> Array:
        logits = decoder.logits(x[:, -1])
        if greedy:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        logits = filter_logits(logits / temperature, top_k, top_p)
        return jax.random.categorical(jax.random.fold_in(key, step), logits).astype(jnp.int32)

    def unfinished(loop: tuple) -> Array:
        step, _, _, done, _, _ = loop
        return (step < max_new) & ~jnp.all(done)

    def advance(loop: tuple) -> tuple:
        step, new, lengths, done, x, cache = loop
        chosen = choose(step, x)
        done = done | jnp.any(chosen[:, None] == stops[None, :], axis=1)
        new = lax.dynamic_update_slice(new, chosen[:, None], (jnp.int32(0), step))
        lengths = jnp.where(done, lengths, step + 1)
        x, _, cache = decoder(
            decoder.embed_tokens(chosen[:, None]), ~done[:, None], edits=edits, cache=cache
        )
        return step + 1, new, lengths, done, x, cache

    loop = (
        jnp.int32(0),
        jnp.zeros((batch, max_new), jnp.int32),
        jnp.zeros((batch,), jnp.int32),
        jnp.zeros((batch,), bool),
        x[:, -1:],
        cache,
    )
    _, new, lengths, *_ = lax.while_loop(unfinished, advance, loop)
    return new, lengths


def filter_logits(
    logits: Float[Array, "b v"], top_k: int, top_p: Float[Array, ""]
) -> Float[Array, "b v"]:
    """Leaves the k most likely tokens, then the fewest whose probabilities sum to at least p."""
    if top_k:
        least = lax.top_k(logits, min(top_k, logits.shape[-1]))[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    order = jnp.sort(logits, axis=-1, descending=True)
    before = jnp.cumsum(jax.nn.softmax(order, axis=-1), axis=-1) - jax.nn.softmax(order, axis=-1)
    # A running float32 sum may reach 1 before the last token: p = 1 keeps all of them.
    kept = jnp.where((before < top_p) | (top_p >= 1), order, jnp.inf)
    return jnp.where(logits < jnp.min(kept, axis=-1, keepdims=True), -jnp.inf, logits)
