"""Which path is taken: jnp until a gain is recorded, and the engine's own paths unchanged by it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.activations.pool import POOLS
from atlas_jax.atlas.pooled import encode_pooled
from atlas_jax.atlas.sae import SAE
from atlas_jax.errors import InputError
from atlas_jax.kernels import choice, chosen
from atlas_jax.translate import device_sums
from atlas_jax.translate.device_sums import DeviceSums
from atlas_jax.translate.moments import Wanted

NAMES = ("encode_max", "gram", "top_rows")


@pytest.fixture
def asked(monkeypatch):
    return lambda value: monkeypatch.setenv(choice.VARIABLE, value)


def test_by_the_variable(asked, monkeypatch):
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    assert not any(map(chosen, NAMES))
    asked("on")
    assert all(map(chosen, NAMES))
    asked("off")
    monkeypatch.setattr(choice, "GAINS", {"cpu": {"gram": choice.Gain(9, 9)}})
    assert not any(map(chosen, NAMES))
    asked("yes")
    with pytest.raises(InputError, match="ATLAS_JAX_KERNELS to be on, off or auto, got 'yes'"):
        chosen("gram")


@pytest.mark.parametrize(
    ("time", "memory", "enough"),
    [(1.2, 0.5, True), (1.19, 3.99, False), (0.5, 4.0, True), (float("nan"), 1.0, False)],
)
def test_by_the_gain_recorded(time, memory, enough, asked, monkeypatch):
    asked("auto")
    monkeypatch.setattr(choice, "GAINS", {"cpu": {"gram": choice.Gain(time, memory)}})
    assert chosen("gram") == enough and not chosen("top_rows")
    monkeypatch.setattr(choice, "GAINS", {"other": {"gram": choice.Gain(time, memory)}})
    assert not chosen("gram")


def test_what_is_split_over_devices_takes_jnp(asked, monkeypatch):
    asked("on")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert jax.device_count() == 8 and not chosen("gram")
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    spec = jax.sharding.PartitionSpec("data")

    def local(x):
        assert chosen("gram")
        return x

    jax.jit(jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec))(jnp.zeros(8))


@pytest.fixture(scope="module")
def sae():
    r = np.random.default_rng(0)
    array = lambda *s: jnp.asarray(r.normal(size=s).astype(np.float32))  # noqa: E731
    theta = jnp.abs(array(50))
    return SAE(array(8, 50), array(50), array(50, 8), array(8), theta, "jumprelu", None, True)


def test_the_engine_encodes_alike(sae, asked):
    r = np.random.default_rng(1)
    x = jnp.asarray(r.normal(size=(3, 5, 8)).astype(np.float32) * 2)
    mask = jnp.asarray(np.arange(5)[None] < np.array([5, 3, 1])[:, None])  # one has no content
    content = mask & jnp.asarray(r.random((3, 5)) > 0.2)

    def traced(pool, sae=sae):
        f = lambda x: encode_pooled(sae, x, content, mask, POOLS[pool])  # noqa: E731
        return jax.jit(f).trace(x)

    programs = {}
    for value in ("off", "auto", "on"):
        asked(value)
        programs[value] = traced("max")
    assert str(programs["auto"].jaxpr) == str(programs["off"].jaxpr)
    assert "pallas_call" in str(programs["on"].jaxpr)
    assert "pallas_call" not in str(programs["off"].jaxpr)
    wanted = programs["off"].lower().compile()(x)
    np.testing.assert_allclose(programs["on"].lower().compile()(x), wanted, rtol=1e-5)
    assert np.isneginf(np.asarray(wanted)[2]).all()
    # What the kernel does not do.
    assert "pallas_call" not in str(traced("mean").jaxpr)
    assert "pallas_call" not in str(traced("max", replace(sae, architecture="topk", k=2)).jaxpr)


def test_the_engine_sums_alike(asked):
    r = np.random.default_rng(2)
    acts, atlas = (r.normal(size=(30, w)).astype(np.float32) for w in (6, 9))
    wanted = Wanted(cross=True, gram="float32", unit=True, unit_gram=True, top=4)

    def sums():
        device_sums._update.clear_cache()  # a compiled program keeps the path that it took
        found = DeviceSums({"a": 6}, 9, wanted, None, 20)
        for start, stop in ((0, 20), (20, 30)):
            found.add({"a": acts[start:stop]}, found.prepare(atlas[start:stop]), start, stop)
        return found.moments()

    asked("off")
    plain = sums()
    asked("on")
    by_kernel = sums()
    device_sums._update.clear_cache()
    for name in ("gram", "unit_gram"):
        mine, theirs = getattr(by_kernel.atlas, name), getattr(plain.atlas, name)
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(by_kernel.sites["a"].top, plain.sites["a"].top, strict=True):
        np.testing.assert_array_equal(mine, theirs)
