"""The autoencoder that a subject inherits through a translation: an atlas' features at its site.

    f_k = z_k where z_k > theta_k, else 0,   z = x T^          (x: a token's activations, d_s)
    x_hat = f T^' + b

with T^ the rows of T at unit length. Latent k is the atlas' feature k, with its labels. It reads x
by the scores of the query e_k (eq. 3: s = T^ e_k, which is how the evaluation of a translation
ranks texts), and writes what eq. 4 adds for that query: W_enc = T^, W_dec = T^'. For Procrustes of
full rank with d_s <= d_c, T^ = T and T T' = I: T' is then also the pseudo-inverse of T, eq. 2's map
between the two spaces, and without thresholds and relu x_hat = x.

T says nothing about scale, so the thresholds come from rates: theta_k is the value above which z_k
lies on as many of the subject's tokens as the atlas' feature k is active on, of the same texts. The
two models need not share a tokenizer for that. b is the mean of x - f T^' on the subject's tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32

from atlas_jax.activations.batches import plan_batches
from atlas_jax.activations.pool import after_first
from atlas_jax.atlas import SAE, Atlas, Labels, save_saelens
from atlas_jax.atlas.sae import decode, encode
from atlas_jax.errors import InputError
from atlas_jax.files import sealed, write_json, write_sum, write_text
from atlas_jax.models import LanguageModel
from atlas_jax.progress import Bar
from atlas_jax.translate.translation import Translation

_BATCH_TOKENS = 2048
_MAX_TOKENS = 512
_COLUMNS = 512  # of z at a time
_CARD_ROWS = 1024


def inherited_sae(
    translation: Translation, thresholds: Float32[np.ndarray, " dc"] | None = None
) -> SAE:
    """W_enc = T^ (d_s, d_c), W_dec = T^', theta as given, b = 0; without thresholds a plain relu.

    Args:
        translation: T of the subject's site.
        thresholds: theta >= 0; `match_rates` finds them.
    """
    unit = np.ascontiguousarray(translation.matrix / translation.row_norms[:, None])
    return SAE(
        W_enc=jnp.asarray(unit),
        b_enc=jnp.zeros(unit.shape[1]),
        W_dec=jnp.asarray(np.ascontiguousarray(unit.T)),
        b_dec=jnp.zeros(unit.shape[0]),
        threshold=None if thresholds is None else jnp.asarray(thresholds),
        architecture="standard" if thresholds is None else "jumprelu",
    )


def match_rates(
    rows: Float32[np.ndarray, "n ds"],
    encoder: Float32[np.ndarray, "ds dc"],
    rates: Float[np.ndarray, " dc"],
) -> Float32[np.ndarray, " dc"]:
    """theta_k >= 0 such that round(rate_k n) of the n rows have z_k above it.

    theta_k lies midway between the two z_k that it parts. Fewer lie above it where so many z_k are
    not positive.

    Args:
        rows: the subject's activations, a token each.
        encoder: T^.
        rates: the share of tokens that each atlas feature is active on.
    """
    found = np.zeros(encoder.shape[1], np.float32)
    allowed = np.minimum(np.rint(rates * len(rows)).astype(np.int64), len(rows) - 1)
    for start in range(0, encoder.shape[1], _COLUMNS):
        part = slice(start, start + _COLUMNS)
        z = np.sort(rows @ encoder[:, part], axis=0)
        below, column = len(rows) - 1 - allowed[part], np.arange(z.shape[1])
        above = np.minimum(below + 1, len(rows) - 1)
        found[part] = (z[below, column] + z[above, column]) / 2
    return np.maximum(found, 0)


def calibrated_sae(
    translation: Translation,
    model: LanguageModel,
    atlas: Atlas,
    texts: Sequence[str],
    tokens: int = 8192,
) -> tuple[SAE, dict[str, Any]]:
    """The inherited autoencoder with thresholds by rates, b the mean of what is left, and its card.

    Args:
        translation: T.
        model: the subject.
        atlas: what T was fitted to.
        texts: read by both models, in their order, until the subject has read enough.
        tokens: of the subject; the first of each text is left out, as in pooling.

    Returns:
        The autoencoder, and `tokens`, `l0` (mean latents active on a token) and `fve`, the share
        of the variance of up to 1,024 of those tokens that x_hat explains.

    Raises:
        InputError: an atlas of another width, or texts without a second token.
    """
    if atlas.sae.n_features != translation.matrix.shape[1]:
        raise InputError(
            f"Expected the atlas of the translation, with {translation.matrix.shape[1]} features, "
            f"got one with {atlas.sae.n_features}."
        )
    site = str(translation.meta["subject"]["site"])
    rows, count = _read_tokens(model, site, texts, tokens)
    sae = inherited_sae(translation)
    encoder = np.asarray(sae.W_enc)
    sae = inherited_sae(translation, match_rates(rows, encoder, _rates(atlas, texts[:count])))
    sae = replace(sae, b_dec=_mean_left(sae, rows))
    x = jnp.asarray(rows[:: math.ceil(len(rows) / _CARD_ROWS)])
    features = encode(sae, x)
    error = jnp.sum((x - decode(sae, features, x)) ** 2)
    total = jnp.sum((x - jnp.mean(x, axis=0, keepdims=True)) ** 2)
    active = jnp.sum(features > 0, dtype=jnp.float32)
    card = {
        "tokens": len(rows),
        "l0": float(active / len(x)),
        "fve": float(1 - error / total),
    }
    return sae, card


def _mean_left(sae: SAE, rows: Float32[np.ndarray, "n ds"]) -> Float[Array, " ds"]:
    """Mean of x - f T^'."""
    left = np.zeros(rows.shape[1])
    for start in range(0, len(rows), _CARD_ROWS):
        x = jnp.asarray(rows[start : start + _CARD_ROWS])
        left += np.asarray(x - decode(sae, encode(sae, x), x), np.float64).sum(0)
    return jnp.asarray((left / len(rows)).astype(np.float32))


def export_sae(
    translation: Translation,
    folder: str | Path,
    *,
    sae: SAE | None = None,
    labels: Labels | None = None,
    model_name: str = "",
    card: dict[str, Any] | None = None,
) -> Path:
    """Writes a folder that SAELens loads (`SAE.load_from_disk`), and `load_atlas` too.

    `cfg.json`, `sae_weights.safetensors`; `labels.jsonl`, a row for each label with the fields of
    Neuronpedia's exports; `card.json`, what was done.

    Args:
        translation: what the subject inherits through.
        folder: where to.
        sae: from `calibrated_sae`; default: `inherited_sae(translation)`, without thresholds.
        labels: of the atlas' features; default: those that the translation knows.
        model_name: the subject; default: as the translation names it.
        card: measured figures, for `card.json`.

    Raises:
        InputError: labels of a larger atlas, or a place that cannot be written to.
    """
    folder = Path(folder).expanduser()
    sae = inherited_sae(translation) if sae is None else sae
    known = translation.meta.get("labels", {})
    labels = Labels.of((int(i), text) for i, text in known.items()) if labels is None else labels
    labels.check(sae.n_features)
    subject, atlas = (translation.meta.get(side) or {} for side in ("subject", "atlas"))
    name = model_name or str(subject.get("model") or "")
    site = str(subject.get("site") or "")
    source = f"{site}-inherited-{translation.method}"
    rows = [
        {
            "modelId": name,
            "layer": source,
            "index": str(feature),
            "description": label.text,
            "typeName": "inherited",
            "explanationModelName": label.source,
        }
        | ({} if label.score is None else {"score": label.score})
        for feature, label in labels.pairs()
    ]
    about = {
        "definition": "f = x T^ where above theta, x_hat = f T^' + b; T^ has unit rows",
        "translation": translation.method,
        "subject": subject,
        "atlas": atlas,
        "thresholds": "none" if sae.threshold is None else "rates of the atlas' features",
        **(card or {}),
    }
    save_saelens(sae, folder, site=site, model_name=name)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_sum(write_text(folder / "labels.jsonl", text))
    write_json(folder / "card.json", sealed(about))
    return folder


def _read_tokens(
    model: LanguageModel, site: str, texts: Sequence[str], tokens: int
) -> tuple[Float32[np.ndarray, "n ds"], int]:
    """Activations of `tokens` tokens, or of all there are, and how many texts those took."""
    ids = [row[:_MAX_TOKENS] for row in model.tokenizer.encode_batch(list(texts[:tokens]))]
    taken = np.cumsum([max(len(row) - 1, 0) for row in ids])
    if not len(taken) or not taken[-1]:
        raise InputError("Expected texts of at least two tokens, got none.")
    count = min(int(np.searchsorted(taken, tokens)) + 1, len(ids))
    found = []
    with Bar("reading tokens of the subject", count) as bar:
        for batch in plan_batches([len(row) for row in ids[:count]], _BATCH_TOKENS):
            chosen = [ids[i] for i in batch.rows]
            padded = chosen + [chosen[0]] * (batch.size - len(chosen))
            inputs, mask = model.tokenizer.pad(padded, batch.length)
            acts = np.asarray(model.read(inputs, mask, [site])[site], np.float32)
            kept = np.asarray(after_first(jnp.asarray(mask)))[: len(chosen)]
            found.append(acts[: len(chosen)][kept])
            bar.advance(len(chosen))
    return np.concatenate(found)[:tokens], count


def _rates(atlas: Atlas, texts: Sequence[str]) -> Float[np.ndarray, " dc"]:
    """The share of tokens, but for the first of each text, that each atlas feature is active on."""
    ids = [row[:_MAX_TOKENS] for row in atlas.tokenizer.encode_batch(list(texts))]
    total, tokens = np.zeros(atlas.sae.n_features), 0
    with Bar("reading tokens of the atlas", len(ids)) as bar:
        for batch in plan_batches([len(row) for row in ids], _BATCH_TOKENS):
            chosen = [ids[i] for i in batch.rows]
            padded = chosen + [chosen[0]] * (batch.size - len(chosen))
            inputs, mask = atlas.tokenizer.pad(padded, batch.length)
            counts = atlas.read(inputs, mask, pool=_count_active)[atlas.feature_site]
            total += np.asarray(counts, np.float64)[: len(chosen)].sum(axis=0)
            tokens += int(np.asarray(after_first(jnp.asarray(mask)))[: len(chosen)].sum())
            bar.advance(len(chosen))
    return total / max(tokens, 1)


def _count_active(acts: Float[Array, "b t f"], mask: Bool[Array, "b t"]) -> Float[Array, "b f"]:
    kept = after_first(mask)[:, :, None]
    return jnp.sum(jnp.where(kept, acts > 0, False), axis=1).astype(jnp.float32)
