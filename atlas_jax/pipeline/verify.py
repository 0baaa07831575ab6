"""Whether a run folder still holds what its manifest and headers say, and models still give it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from atlas_jax.errors import InputError
from atlas_jax.files import sha256_of, unsealed
from atlas_jax.pipeline.run import MANIFEST, versions
from atlas_jax.pipeline.run_folder import RunFolder
from atlas_jax.translate.witness import TOLERANCE, errors_of_rows

FEATURES = 16
"""Rows of each translation that are computed again."""
_FLIPS = 1e-3
"""Share of a row that rounding may push over or under a threshold of the autoencoder."""
_ROUNDING = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        part: the file or folder, within the run.
        what: was looked at.
        ok: whether it is as it should be.
        found: in one line.
    """

    part: str
    what: str
    ok: bool
    found: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def verify_run(folder: str | Path, rows: int = 8, seed: int = 0) -> Iterator[Check]:
    """Looks at everything a run left, one part after the other; writes nothing.

    The recorded files against their sha256; the corpus against its hash; each store's header
    against the corpus, all of its chunks against their checksums and for values that are not
    finite, and `rows` of its samples against what the model gives now; each translation against
    its checksums, its header against the stores, and some of its rows against their definition
    (`translate.witness`).

    Args:
        folder: of `quickstart` or `run`.
        rows: samples of each store that the models read again; 0: the models are not loaded.
        seed: which samples and features.

    Raises:
        InputError: no run there.
    """
    run = RunFolder(folder)
    several = sorted(
        path.parent
        for path in run.folder.glob(f"*/{MANIFEST}")
        if (path.parent / "translations").is_dir()
    )
    yield from _files(run)
    yield _attempt(
        "corpus",
        "hash",
        lambda: f"{run.corpus.hash[:12]}, {len(run.corpus.train)} and {len(run.corpus.eval)} texts",
    )
    for each in [RunFolder(path) for path in several] or [run]:
        place = "" if each.folder == run.folder else f"{each.folder.name}/"
        if place:
            yield from _files(each, place)
        for half in ("train", "eval"):
            for side in ("subject", "atlas"):
                if side == "subject" or each.folder in (run.folder, *several[:1]):
                    yield from _store(each, place, half, side, rows, seed)
        yield from _translations(each, place, seed)


def _attempt(part: str, what: str, look: Callable[[], str]) -> Check:
    """A check that passes unless `look` refuses."""
    try:
        return Check(part, what, True, look())
    except (InputError, OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error) if isinstance(error, InputError) else f"damaged ({error!r})"
        return Check(part, what, False, " ".join(reason.split()))


def _expect(expected: Any, found: Any, what: str) -> None:
    if expected != found:
        raise InputError(f"Expected {what} {expected}, got {found}.")


def _files(run: RunFolder, place: str = "") -> Iterator[Check]:
    manifest = unsealed(json.loads((run.folder / MANIFEST).read_text("utf-8")))
    then, now = manifest.get("versions", {}), versions()
    other = [
        f"{name} {then[name]}, now {now.get(name)}" for name in then if then[name] != now.get(name)
    ]
    yield Check(f"{place}{MANIFEST}", "versions", True, "; ".join(other) or "the same now")

    for name, recorded in sorted(manifest.get("files", {}).items()):
        yield _attempt(f"{place}{name}", "sha256", partial(_file, run.folder / name, recorded))


def _file(path: Path, recorded: str) -> str:
    _expect(recorded[:12], sha256_of(path)[:12], "sha256")
    return recorded[:12]


def _store(
    run: RunFolder, place: str, half: str, side: str, rows: int, seed: int
) -> Iterator[Check]:
    part = f"{place}activations/{half}/{side}"

    def store() -> Any:
        atlas = side == "atlas"
        if half == "eval":
            return run.held_out_atlas if atlas else run.held_out
        return run.train_atlas if atlas else run.train

    def header() -> str:
        meta, texts = store().meta, getattr(run.corpus, half)
        _expect(texts.hash, meta["texts"], "texts with the hash")
        _expect(len(texts), meta["n"], "as many rows as texts,")
        return f"{meta['model']}, {meta['n']} texts, {', '.join(meta['sites'])}"

    def scan() -> str:
        found, size = store(), 0
        for site in found.sites:
            for pool in found.pools(site):
                for batch in found[site, pool].batches(4096):
                    size += batch.nbytes
                    bad = ~np.isfinite(batch.astype(np.float32))
                    if bad.any():
                        raise InputError(
                            f"Expected finite values at {site}, got some that are not."
                        )
        return f"{size / 1e6:,.0f} MB, all finite"

    def again() -> str:
        return _read_again(run, store(), half, side, rows, seed)

    yield (check := _attempt(part, "header", header))
    if check.ok:
        yield _attempt(part, "chunks", scan)
        if rows:
            yield _attempt(part, f"{rows} rows, read again", again)


def _read_again(run: RunFolder, store: Any, half: str, side: str, rows: int, seed: int) -> str:
    from atlas_jax.activations.in_memory import read_texts

    source: Any = run.atlas if side == "atlas" else run.model
    _expect(store.meta["fingerprint"], source.fingerprint, "the model with the fingerprint")
    texts = getattr(run.corpus, half)
    capture = run.recipe["capture"]
    chosen = np.sort(np.random.default_rng(seed).permutation(len(texts))[:rows])
    asked = _Chosen([texts[int(i)] for i in chosen])
    worst = 0.0
    for site in store.sites:
        for pool in store.pools(site):
            now = read_texts(
                source, asked, site, pool, capture["batch_tokens"], capture["max_tokens"]
            )
            then = store[site, pool].rows(chosen).astype(np.float64)
            size = np.abs(then).max(axis=1, keepdims=True)
            off = np.abs(now.astype(np.float64) - then) / np.where(size > 0, size, 1)
            kind = store.meta["sites"][site]["dtype"]
            limit = max(_ROUNDING[kind], _ROUNDING[np.dtype(now.dtype).name])
            share = float(np.mean(off > limit, axis=1).max())
            worst = max(worst, float(np.median(off.max(axis=1))))
            if share > _FLIPS:
                raise InputError(
                    f"Expected rows {chosen.tolist()} of {site} within {limit:g} of what the model "
                    f"gives now; {share:.1%} of a row differ by more."
                )
    return f"within {worst:.1e} of the largest entry"


class _Chosen(list[str]):
    """A few texts (`activations.tokens.Corpus`)."""

    hash = "chosen"


def _translations(run: RunFolder, place: str, seed: int) -> Iterator[Check]:
    found = _attempt(f"{place}translations", "files", lambda: f"{len(run.files)} sites")
    if not found.ok:
        yield found
        return
    for site, by in run.files.items():
        good: dict[str, Any] = {}
        for method in by:
            what = "checksums and header"
            look = partial(_translation, run, site, method, good)
            yield _attempt(f"{place}translations/{site}/{method}", what, look)
        yield from _rows_again(run, place, site, good, seed)


def _translation(run: RunFolder, site: str, method: str, good: dict[str, Any]) -> str:
    translation = run.translation(site, method)
    subject, atlas, meta = run.train.meta, run.train_atlas.meta, translation.meta
    _expect(subject["texts"], meta["texts"], "texts with the hash")
    _expect(subject["n"], meta["n"], "samples:")
    _expect(site, meta["subject"]["site"], "the site")
    for side, store in (("subject", subject), ("atlas", atlas)):
        _expect(store["fingerprint"], meta[side]["fingerprint"], f"the {side}")
    good[method] = translation
    return repr(translation)


def _rows_again(
    run: RunFolder, place: str, site: str, good: dict[str, Any], seed: int
) -> Iterator[Check]:
    if not good:
        return
    width = len(next(iter(good.values())).matrix)
    features = np.sort(np.random.default_rng(seed).permutation(width)[:FEATURES])
    atlas = run.train_atlas[run.train_atlas.sites[0]]
    try:
        errors = errors_of_rows(good, run.train[site], atlas, features)
    except InputError as error:
        yield Check(f"{place}translations/{site}", "rows", False, str(error))
        return
    for method, error in errors.items():
        what = f"{len(features)} rows, computed again"
        found = f"off by {error:.1e}"
        yield Check(f"{place}translations/{site}/{method}", what, error <= TOLERANCE, found)
