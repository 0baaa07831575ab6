"""Fitting while the models read equals fitting from their stores."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.activations import capture
from atlas_jax.corpus import Texts
from atlas_jax.errors import InputError
from atlas_jax.fit_streaming import fit_streaming
from atlas_jax.parallel import make_mesh
from atlas_jax.translate import METHODS, Options, fit

METHOD_NAMES = tuple(name for name in METHODS if name != "procrustes_exact")
OPTIONS = Options(k=7)


class Words:
    """A tokenizer with one token for each word."""

    pad_id = 0

    def __init__(self, repeat):
        self.repeat = repeat  # the two models cut a text into unlike numbers of tokens

    def encode_batch(self, texts):
        return [[1 + int(w[1:]) % 50 for w in t.split() for _ in range(self.repeat)] for t in texts]

    def pad(self, rows, length, left=False):
        tokens = np.zeros((len(rows), length), np.int32)
        mask = np.zeros((len(rows), length), bool)
        for i, row in enumerate(rows):
            tokens[i, : len(row)], mask[i, : len(row)] = row, True
        return tokens, mask


class Table:
    """A model whose activations are rows of a table, one for each token."""

    mesh = None

    def __init__(self, name, widths, repeat=1, sparse=False):
        rng = np.random.default_rng(len(name))
        self.name, self.fingerprint, self.sites = name, f"{name}.print", tuple(widths)
        self.tokenizer, self.calls = Words(repeat), 0
        self.tables = {s: rng.standard_normal((51, w)).astype("f4") for s, w in widths.items()}
        if sparse:
            self.tables = {s: np.maximum(t - 1, 0) for s, t in self.tables.items()}

    def width(self, site):
        if site not in self.tables:
            raise InputError(f"Expected a site among {', '.join(self.sites)}, got '{site}'.")
        return self.tables[site].shape[1]

    def read(self, tokens, mask, sites, pool=None):
        self.calls += 1
        acts = {s: jnp.asarray(self.tables[s])[jnp.asarray(tokens)] for s in sites}
        return {s: pool(a, jnp.asarray(mask)) if pool else a for s, a in acts.items()}


RNG = np.random.default_rng(8)
TEXTS = Texts([" ".join(f"w{i}" for i in RNG.integers(0, 99, n)) for n in RNG.integers(2, 9, 300)])


@pytest.fixture
def models():
    return Table("subject", {"a": 6, "b": 9}), Table("atlas", {"c": 12}, repeat=2, sparse=True)


def test_it_equals_the_stored_path(models, tmp_path):
    subject, atlas = models
    how = {"batch_tokens": 256, "max_tokens": 64}
    store = capture(subject, TEXTS, out=tmp_path / "s", **how)
    other = capture(atlas, TEXTS, out=tmp_path / "c", **how)
    expected = fit({s: store[s] for s in "ab"}, other, METHOD_NAMES, options=OPTIONS)
    found = fit_streaming(
        subject, atlas, TEXTS, None, METHOD_NAMES, options=OPTIONS, batch_rows=64, **how
    )
    assert list(found) == ["a", "b"]
    for site, methods in expected.items():
        for name, translation in methods.items():
            scale = np.abs(translation.matrix).max()
            mine = found[site][name]
            np.testing.assert_allclose(mine.matrix, translation.matrix, atol=2e-5 * scale)
            assert mine.meta["subject"] == translation.meta["subject"]
            assert mine.meta["texts"] == TEXTS.hash and mine.meta["n"] == 300


def test_models_on_devices_of_their_own_read_at_the_same_time(models, tmp_path):
    subject, atlas = models
    plain = fit_streaming(subject, atlas, TEXTS, None, METHOD_NAMES, options=OPTIONS)
    devices, meeting, seen = jax.devices(), threading.Barrier(2), {}
    for source, group in ((subject, devices[:6]), (atlas, devices[6:])):
        source.mesh = make_mesh(devices=group)
        read = source.read

        def met(*arguments, source=source, read=read):
            if source.calls == 0:
                meeting.wait(60)  # neither goes on before the other has come
            acts = read(*arguments)
            seen.setdefault(source.name, set()).update(*(a.devices() for a in acts.values()))
            return acts

        source.calls, source.read = 0, met
    apart = fit_streaming(
        subject, atlas, TEXTS, None, METHOD_NAMES, options=OPTIONS, moments=tmp_path
    )
    assert seen == {"subject": set(devices[:6]), "atlas": set(devices[6:])}
    for site, methods in plain.items():
        for name, translation in methods.items():
            np.testing.assert_array_equal(apart[site][name].matrix, translation.matrix)
    # And the sums on all eight: programs of three threads, for devices that they share.
    meeting.reset()
    for source in models:
        source.calls = 1
    spread = fit_streaming(
        subject, atlas, TEXTS, None, METHOD_NAMES, options=OPTIONS, mesh=make_mesh(4, 2)
    )
    for site, methods in plain.items():
        for name, translation in methods.items():
            scale = np.abs(translation.matrix).max()
            np.testing.assert_allclose(
                spread[site][name].matrix, translation.matrix, atol=2e-5 * scale
            )


def test_it_resumes_from_saved_moments(models, tmp_path):
    subject, atlas = models
    plain = fit_streaming(subject, atlas, TEXTS, ["a"], METHOD_NAMES, options=OPTIONS)
    read, limit = subject.read, 4

    def broken(*arguments):
        if subject.calls >= limit:
            raise KeyboardInterrupt
        return read(*arguments)

    how = {"moments": tmp_path, "batch_rows": 50, "save_every": 0.0, "options": OPTIONS}
    subject.calls, subject.read = 0, broken
    with pytest.raises(KeyboardInterrupt):
        fit_streaming(subject, atlas, TEXTS, ["a"], METHOD_NAMES, **how)
    subject.calls, subject.read = 0, read
    whole = fit_streaming(subject, atlas, TEXTS, ["a"], METHOD_NAMES, **how)
    resumed = subject.calls
    for name, translation in plain["a"].items():
        np.testing.assert_allclose(whole["a"][name].matrix, translation.matrix, atol=3e-5)
    subject.calls = 0
    fit_streaming(subject, atlas, TEXTS, ["a"], ("covariance",), options=OPTIONS, batch_rows=50)
    assert 0 < resumed < subject.calls


def test_bad_input(models):
    subject, atlas = models
    with pytest.raises(InputError, match="site among a, b, got 'z'"):
        fit_streaming(subject, atlas, TEXTS, ["z"])
    with pytest.raises(InputError, match="pooling among max"):
        fit_streaming(subject, atlas, TEXTS, pool="median")
    with pytest.raises(InputError, match="Text 1 .* has 1 tokens"):
        fit_streaming(subject, atlas, Texts(["w1 w2", "w3"]))
    with pytest.raises(InputError, match="at least one subject site"):
        fit_streaming(subject, atlas, TEXTS, [])
