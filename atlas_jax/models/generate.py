"""Generation with a key-value cache, every text of a batch under its own edits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Key

from atlas_jax.errors import InputError
from atlas_jax.models.attention import Cache
from atlas_jax.models.decoder import Decoder
from atlas_jax.models.language_model import LanguageModel, each_text
from atlas_jax.models.sampling import choose
from atlas_jax.models.sites import Edit, EditStack, Site, site_width, stack_edits
from atlas_jax.models.stream import OnToken, Stream
from atlas_jax.on_host import on_devices, on_host
from atlas_jax.progress import Bar

_PROMPT_STEP = 16
_STREAM_STEP = 4

Messages = Sequence[Mapping[str, str]]


def generate(
    model: LanguageModel,
    prompts: Sequence[str] | Sequence[Messages] = (),
    edits: Sequence[Edit] | Sequence[Sequence[Edit]] = (),
    max_new_tokens: int = 100,
    *,
    chat: bool = False,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int | Sequence[int] = 0,
    edit_prompt: bool = True,
    batch_size: int = 32,
    inputs_embeds: Float[Array, "b t d"] | np.ndarray | None = None,
    mask: Bool[Array, "b t"] | np.ndarray | None = None,
    on_token: OnToken | None = None,
    on_batch: Callable[[int, list[str]], object] | None = None,
    progress: str = "generating",
) -> list[str]:
    """Continues prompts.

    Args:
        model: the subject; one that lies over several processes is asked by all of them alike.
        prompts: texts to continue; they may differ in length. With `chat` also conversations:
            lists of messages with `role` and `content`.
        edits: edits of every text, or one list of edits for each prompt (`steer` makes them).
        max_new_tokens: upper bound; a text ends earlier at an end-of-sequence token.
        chat: answer the prompts, through the chat template of the model's tokenizer.
        temperature: 0 is greedy.
        top_k: sample among the k most likely tokens (0: all).
        top_p: sample among the fewest tokens whose probabilities reach p.
        seed: of the samples, or one for each text. A text's samples depend on its own seed and on
            nothing else (with one seed for all: and on its index), whatever the batch size.
        edit_prompt: also edit the prompt's positions, not just the generated ones.
        batch_size: texts generated together.
        inputs_embeds: embedded prompts (B, T, d) in the place of `prompts`, as `model.embed`
            gives them, with rows exchanged as one likes.
        mask: True at the real positions of `inputs_embeds`; default: all.
        on_token: called as `on_token(text, token, piece)` for each new token a few steps after it
            was chosen; the pieces of a text make up its continuation.
        on_batch: called as `on_batch(first, continuations)` when a batch is done.
        progress: label of the progress bar.

    Returns:
        The continuations, without their prompts.

    Raises:
        InputError: no prompts, an unknown site, a vector of another width, no chat template, no
            room for the new tokens, or another number of seeds.
    """
    if max_new_tokens < 1 or temperature < 0 or not 0 < top_p <= 1 or top_k < 0:
        raise InputError(
            "Expected max_new_tokens >= 1, temperature >= 0, 0 < top_p <= 1 and top_k >= 0, got "
            f"{max_new_tokens}, {temperature}, {top_p} and {top_k}."
        )
    inputs, real = _prompts(model, prompts, chat, inputs_embeds, mask)
    model.fits(real, max_new_tokens)
    per_text = each_text(edits, len(inputs))
    keys = _keys(seed, len(inputs))
    points = sorted(
        {e.site.split(".", 2)[2] for row in per_text for e in row if e.site.count(".") > 1}
    )
    texts: list[str] = []
    size = min(batch_size, len(inputs))
    with Bar(progress, len(inputs)) as bar:
        for start in range(0, len(inputs), size):
            mine = list(per_text[start : start + size])
            filler = size - len(mine)
            rows = np.minimum(np.arange(start, start + size), len(inputs) - 1)
            stacks = stack_edits(mine + [()] * filler, model.arch)
            steps = _steps(
                model,
                _over_texts(model, inputs[rows]),
                _over_texts(model, real[rows]),
                _with_points(stacks, points, model, size),
                _over_texts(model, keys[rows]),
                sampling=(jnp.float32(temperature), jnp.float32(top_p), temperature == 0, top_k),
                max_new=max_new_tokens,
                every=_STREAM_STEP if on_token else max_new_tokens,
                edit_prompt=edit_prompt,
            )
            new: list[list[int]] = []
            stream = Stream(model.tokenizer.decode, start, len(mine), on_token)
            for new in steps:
                stream.advance(new)
            finished = stream.finish(new)
            texts += finished
            if on_batch is not None:
                on_batch(start, finished)
            bar.advance(len(mine))
    return texts


def _prompts(
    model: LanguageModel,
    prompts: Sequence[str] | Sequence[Messages],
    chat: bool,
    embeds: Float[Array, "b t d"] | np.ndarray | None,
    mask: Bool[Array, "b t"] | np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids or embeddings, padded on the left to one length of few, and their mask.

    Prompts of like length then share an executable.
    """
    if embeds is not None:
        if len(prompts) or chat or embeds.ndim != 3 or not embeds.shape[0]:
            raise InputError("Expected either prompts or inputs_embeds (B, T, d), not both.")
        values = np.asarray(model.inputs(None, embeds))
        real = np.ones(values.shape[:2], bool) if mask is None else np.asarray(mask, bool)
        if real.shape != values.shape[:2] or not real.any(axis=1).all():
            raise InputError(
                f"Expected a mask of shape {values.shape[:2]} with a real position in each row, "
                f"got shape {real.shape}."
            )
        order = np.argsort(real, axis=1, kind="stable")  # padding first, the rest in its order
        values = np.take_along_axis(values, order[:, :, None], axis=1)
        real = np.take_along_axis(real, order, axis=1)
        extra = -real.shape[1] % _PROMPT_STEP
        return np.pad(values, ((0, 0), (extra, 0), (0, 0))), np.pad(real, ((0, 0), (extra, 0)))
    if not len(prompts):
        raise InputError("Expected at least one prompt, got none.")
    if chat:
        turns = [[{"role": "user", "content": p}] if isinstance(p, str) else p for p in prompts]
        rows = [model.tokenizer.chat(messages) for messages in turns]
    else:
        if not all(isinstance(prompt, str) for prompt in prompts):
            raise InputError("Expected prompts that are texts; pass chat=True for conversations.")
        rows = model.tokenizer.encode_batch([str(prompt) for prompt in prompts])
    rows = [row or [model.tokenizer.bos_id or model.tokenizer.pad_id] for row in rows]
    longest = -(-max(map(len, rows)) // _PROMPT_STEP) * _PROMPT_STEP
    return model.tokenizer.pad(rows, longest, left=True)


def _over_texts(model: LanguageModel, values: np.ndarray | Array) -> Array:
    """Spread over the axis `data` of the model's mesh, where the texts divide."""
    mesh = model.mesh
    if mesh is None or len(values) % mesh.shape.get("data", 1):
        return jnp.asarray(values) if isinstance(values, np.ndarray) else values
    split = NamedSharding(mesh, PartitionSpec("data"))
    if isinstance(values, np.ndarray):
        return on_devices(values, split)
    return values if mesh.is_multi_process else jax.device_put(values, split)


def _with_points(
    stacks: dict[str, EditStack], points: list[str], model: LanguageModel, batch: int
) -> dict[str, EditStack]:
    """Adds empty stacks, so that every batch of one call has the same structure."""
    for point in points:
        if point not in stacks:
            width = site_width(Site(0, point), model.arch)
            stacks[point] = EditStack.empty(model.arch.n_layers, batch, width)
    return stacks


def _keys(seed: int | Sequence[int], texts: int) -> Key[Array, " texts"]:
    """A key for each text: from its own seed, or from the one seed and its index."""
    if not isinstance(seed, Sequence):
        one = jax.random.key(np.uint32(seed % 2**32))
        index = jnp.arange(texts, dtype=jnp.uint32)
        return jax.vmap(lambda i: jax.random.fold_in(one, i))(index)
    if len(seed) != texts:
        raise InputError(f"Expected a seed for each of {texts} texts, got {len(seed)}.")
    return jax.vmap(jax.random.key)(jnp.array([one % 2**32 for one in seed], jnp.uint32))


def _stop_ids(model: LanguageModel) -> Int[Array, " stops"]:
    ids = {model.tokenizer.eos_id, *model.stop_ids}
    return jnp.array(sorted(i for i in ids if i is not None) or [-1], jnp.int32)


def _steps(
    model: LanguageModel,
    inputs: Int[Array, "b t"] | Float[Array, "b t d"],
    mask: Bool[Array, "b t"],
    edits: Mapping[str, EditStack],
    keys: Key[Array, " b"],
    *,
    sampling: tuple[Array, Array, bool, int],
    max_new: int,
    every: int,
    edit_prompt: bool,
) -> Iterator[list[list[int]]]:
    """The new tokens of each text so far, after every few steps, until all have stopped."""
    temperature, top_p, greedy, top_k = sampling
    state = (model.graph, model.state)
    loop = _start(*state, inputs, mask, edits, max_new=max_new, edit_prompt=edit_prompt)
    for limit in range(every, max_new + every, every):
        loop = _advance(
            *state,
            loop,
            edits,
            keys,
            temperature,
            top_p,
            _stop_ids(model),
            jnp.int32(min(limit, max_new)),
            greedy=greedy,
            top_k=top_k,
        )
        _, new, lengths, done, *_ = loop
        new, lengths = on_host(new), on_host(lengths)
        yield [row[:length].tolist() for row, length in zip(new, lengths, strict=True)]
        if on_host(done).all():
            return


@partial(jax.jit, static_argnames=("graph", "max_new", "edit_prompt"))
def _start(
    graph: Any,
    state: Any,
    inputs: Int[Array, "b t"] | Float[Array, "b t d"],
    mask: Bool[Array, "b t"],
    edits: Mapping[str, EditStack],
    *,
    max_new: int,
    edit_prompt: bool,
) -> tuple:
    """Runs the prompts and fills the cache; what it returns is what `_advance` takes and returns.

    That is: the step, the new tokens (B, new), the length of each text, whether it has stopped, the
    residual stream at the last position, the cache.
    """
    decoder: Decoder = nnx.merge(graph, state)
    batch, time = mask.shape
    x, _, cache = decoder(
        decoder.embedded(inputs),
        mask,
        edits=edits,
        editable=mask if edit_prompt else jnp.zeros_like(mask),
        cache=Cache.empty(decoder.arch, batch, time + max_new, decoder.embed[...].dtype),
    )
    return (
        jnp.int32(0),
        jnp.zeros((batch, max_new), jnp.int32),
        jnp.zeros((batch,), jnp.int32),
        jnp.zeros((batch,), bool),
        x[:, -1:],
        cache,
    )


@partial(jax.jit, static_argnames=("graph", "greedy", "top_k"), donate_argnames=("loop",))
def _advance(
    graph: Any,
    state: Any,
    loop: tuple,
    edits: Mapping[str, EditStack],
    keys: Key[Array, " b"],
    temperature: Float[Array, ""],
    top_p: Float[Array, ""],
    stops: Int[Array, " stops"],
    limit: Int[Array, ""],
    *,
    greedy: bool,
    top_k: int,
) -> tuple:
    """Chooses and runs one token after another, up to step `limit` or until all texts stop.

    One executable, whether it is asked for all steps at once or for a few at a time.
    """
    decoder: Decoder = nnx.merge(graph, state)

    def unfinished(loop: tuple) -> Array:
        step, _, _, done, _, _ = loop
        return (step < limit) & ~jnp.all(done)

    def advance(loop: tuple) -> tuple:
        step, new, lengths, done, x, cache = loop
        logits = decoder.logits(x[:, -1])
        here = jax.vmap(lambda key: jax.random.fold_in(key, step))(keys)
        chosen = choose(logits, here, temperature, top_p, greedy=greedy, top_k=top_k)
        done = done | jnp.any(chosen[:, None] == stops[None, :], axis=1)
        new = lax.dynamic_update_slice(new, chosen[:, None], (jnp.int32(0), step))
        lengths = jnp.where(done, lengths, step + 1)
        x, _, cache = decoder(
            decoder.embed_tokens(chosen[:, None]), ~done[:, None], edits=edits, cache=cache
        )
        return step + 1, new, lengths, done, x, cache

    return lax.while_loop(unfinished, advance, loop)
