"""What an atlas keeps of its model: the figures of its card, on contexts it never saw.

    FVE = 1 - sum |x - x_hat|^2 / sum |x - mean|^2          in the space of raw activations
    recovered = (CE(mean) - CE(spliced)) / (CE(mean) - CE(clean))

CE is the cross-entropy per token of the model's next-token prediction: clean; with every activation
of the site replaced by its reconstruction (spliced); by the mean activation (mean); by zero. The
first token and other attention sinks are never replaced, and are left out of the first equation.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from atlas_jax.atlas.blocks import row_blocks
from atlas_jax.atlas.sae import SAE, decode, encode
from atlas_jax.atlas.sinks import content_rows, is_content, norm_limit
from atlas_jax.atlas.token_activations import TokenSource
from atlas_jax.errors import InputError
from atlas_jax.models.decoder import Decoder
from atlas_jax.models.language_model import LanguageModel
from atlas_jax.models.sites import parse_site
from atlas_jax.progress import track

_ROWS = 4096
_BINS = np.array([0.0, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0])


def measure_card(
    sae: SAE,
    source: TokenSource,
    model: LanguageModel | None = None,
    site: str = "",
    *,
    max_norm: float | None = None,
    heldout: int = 512,
    spliced: int = 128,
    batch: int = 8,
) -> dict[str, Any]:
    """The figures of an atlas, on the held-out contexts at the end of `source`.

    Args:
        sae: the autoencoder.
        source: the activations it was trained on.
        model: to measure cross-entropies with; None leaves them out.
        site: where the autoencoder sits.
        max_norm: norm of an attention sink; default: found from `source`. Sinks are left out of
            the figures and never replaced.
        heldout: contexts at the end that training did not see.
        spliced: how many of those to run through the model.
        batch: contexts run together.

    Raises:
        InputError: nothing held out, or a source of another width.
    """
    contexts = len(source.tokens)
    heldout = min(heldout, contexts)
    if not heldout or source.width != sae.width:
        raise InputError(
            f"Expected held-out activations of width {sae.width}, got {heldout} contexts of width "
            f"{source.width}."
        )
    every = source.read(np.arange(contexts - heldout, contexts))
    max_norm = norm_limit(every) if max_norm is None else max_norm
    rows = every[content_rows(every, max_norm)]
    mean = np.asarray(rows, np.float32).mean(0, dtype=np.float64)
    counts, error, total = np.zeros(sae.n_features), 0.0, 0.0
    measure = jax.jit(_measure)
    for start in track(range(0, len(rows), _ROWS), "measuring the atlas"):
        for _, x in row_blocks(rows[start : start + _ROWS], sae.n_features):
            active, rest = measure(sae, x)
            counts += np.asarray(active)
            error += float(rest)
            total += float(((np.asarray(x) - mean) ** 2).sum(dtype=np.float64))
    density = counts / len(rows)
    card: dict[str, Any] = {
        "heldout_tokens": len(rows),
        "sink_share": 1 - len(rows) / len(every),
        "fve": 1 - error / total,
        "l0": float(counts.sum() / len(rows)),
        "dead_share": float((counts == 0).mean()),
        "density": {
            "bins": _BINS.tolist(),
            "features": np.histogram(density, _BINS)[0].tolist(),
        },
    }
    if model is not None:
        tokens = source.tokens[contexts - heldout :][:spliced]
        card |= splice(sae, model, site, tokens, mean.astype(np.float32), max_norm, batch)
    return card


def _measure(sae: SAE, x: Float[Array, "n d"]) -> tuple[Float[Array, " F"], Float[Array, ""]]:
    features = encode(sae, x)
    active = jnp.sum((features > 0).astype(jnp.float32), axis=0)
    return active, jnp.sum((x - decode(sae, features, x)) ** 2)


def splice(
    sae: SAE,
    model: LanguageModel,
    site: str,
    tokens: Int[np.ndarray, "contexts length"],
    mean: Float[np.ndarray, " d"],
    max_norm: float,
    batch: int = 8,
) -> dict[str, float]:
    """Cross-entropies (nats per token): site clean, reconstructed, averaged away and zeroed."""
    parse_site(site, model.arch)
    sums = np.zeros(4)
    for start in track(range(0, len(tokens), batch), "splicing the atlas in"):
        part = tokens[start : start + batch]
        filled = np.concatenate([part, np.repeat(part[:1], batch - len(part), 0)])
        weight = (np.arange(batch) < len(part)).astype(np.float32)
        sums += np.asarray(
            _cross_entropies(
                model.graph,
                model.state,
                sae,
                jnp.asarray(filled),
                jnp.asarray(mean),
                site,
                jnp.asarray(weight),
                max_norm,
            )
        )
    clean, spliced, averaged, zeroed = (float(v) for v in sums / len(tokens))
    return {
        "ce_clean": clean,
        "ce_spliced": spliced,
        "ce_mean_ablated": averaged,
        "ce_zero_ablated": zeroed,
        "ce_recovered": (averaged - spliced) / (averaged - clean),
        "ce_recovered_from_zero": (zeroed - spliced) / (zeroed - clean),
    }


@partial(jax.jit, static_argnames=("graph", "site"))
def _cross_entropies(
    graph: Any,
    state: Any,
    sae: SAE,
    tokens: Int[Array, "b t"],
    mean: Float[Array, " d"],
    site: str,
    weight: Float[Array, " b"],
    max_norm: float | Float[Array, ""],
) -> Float[Array, 4]:
    decoder: Decoder = nnx.merge(graph, state)
    mask = jnp.ones(tokens.shape, bool)
    where = parse_site(site, decoder.arch)
    swaps = (
        lambda x: x,
        lambda x: decode(sae, encode(sae, x), x).astype(x.dtype),
        lambda x: jnp.broadcast_to(mean.astype(x.dtype)[None, None], x.shape),
        jnp.zeros_like,
    )

    def loss(swap: Any) -> Float[Array, ""]:
        def swapped(x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
            content = is_content(x, max_norm).at[:, 0].set(jnp.zeros((), bool))
            return jnp.where(content[:, :, None], swap(x), x)

        x, _, _ = decoder(decoder.embed_tokens(tokens), mask, swaps={where: swapped})
        logs = jax.nn.log_softmax(decoder.logits(x[:, :-1]), axis=-1)
        chosen = jnp.take_along_axis(logs, tokens[:, 1:, None], axis=-1)[..., 0]
        return -jnp.sum(jnp.mean(chosen, axis=1) * weight)

    return jnp.stack([loss(swap) for swap in swaps])
