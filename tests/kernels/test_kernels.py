"""Each kernel against float64 NumPy and its jnp reference, interpreted as each platform has it."""

from functools import partial
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from atlas_jax.kernels import blocks

encode_max, gram, top_rows = (
    import_module(f"atlas_jax.kernels.{name}") for name in ("encode_max", "gram", "top_rows")
)
RNG = np.random.default_rng
RACES = pltpu.InterpretParams(detect_races=True, num_cores_or_threads=2)


@pytest.fixture(params=["cpu", "tpu", "gpu"])
def run(request, monkeypatch, capfd):
    """Runs a kernel as a platform has it: `cpu` by XLA, `tpu` on two cores, where races show."""
    platform = request.param
    if platform == "gpu":  # its own blocks, but interpreted

        def interpreted(kernel, platform, warps, **more):
            return blocks.call(kernel, "cpu", **more)

        for module in (encode_max, gram, top_rows):
            monkeypatch.setattr(module, "call", interpreted)

    def compiled(module, *arrays):
        if platform != "tpu":
            return jax.jit(partial(module.kernel, platform=platform))(*arrays)
        with pltpu.force_tpu_interpret_mode(RACES):
            found = jax.block_until_ready(jax.jit(partial(module.kernel, platform="tpu"))(*arrays))
        assert "RACE" not in capfd.readouterr().out
        return found

    return compiled


def test_a_race_would_show(capfd):
    def add(x, out):
        out[...] = out[...] + x[...]

    x = jnp.ones((32, 128))
    with pltpu.force_tpu_interpret_mode(RACES):
        whole = pl.pallas_call(
            add,
            grid=(4,),
            in_specs=[pl.BlockSpec((8, 128), lambda i: (i, 0))],
            out_specs=pl.BlockSpec((8, 128), lambda i: (0, 0)),
            out_shape=jax.ShapeDtypeStruct((8, 128), jnp.float32),
            compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        )
        jax.block_until_ready(whole(x))
    assert "RACE DETECTED" in capfd.readouterr().out


@pytest.mark.parametrize("jump", [True, False])
def test_encode_max(run, jump):
    b, t, d, features = 3, 130, 70, 300
    r = RNG(0)
    h, w, bias, theta = (
        r.normal(size=s).astype(np.float32) for s in ((b, t, d), (d, features), features, features)
    )
    theta = 8 + theta
    h[:, 7], w[:, :2] = 0, 0  # z is the bias, exactly
    theta[0] = bias[0] = 60.0  # equal: not active
    theta[1], bias[1] = 60.0, np.nextafter(np.float32(60), np.float32(61))  # active
    theta[2:9], bias[9:12] = -3.0, -200.0  # never below zero; never active
    mask = r.random((b, t)) > 0.3
    mask[1] = False  # a text without tokens
    mask[:, 129] = [True, False, True]
    h[0, 20], mask[0, 20] = np.nan, False  # where no one looks
    h[2, 3], mask[2, 3] = np.nan, True
    arrays = [jnp.asarray(x) for x in (h, w, bias, theta, mask)]
    arrays[3] = arrays[3] if jump else None
    found, plain = np.asarray(run(encode_max, *arrays)), encode_max.reference(*arrays)
    z = h.astype(float) @ w.astype(float) + bias
    f = np.where(z > theta, np.maximum(z, 0), 0) if jump else np.maximum(z, 0)
    exact = np.where(mask[:, :, None], f, 0).max(axis=1)
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-4)
    # XLA's maximum on a CPU loses NaN over so many tokens, NumPy's does not.
    np.testing.assert_allclose(found[:2], plain[:2], rtol=1e-6, atol=1e-5)
    np.testing.assert_array_equal(found[:2] > 0, np.asarray(plain)[:2] > 0)
    assert (found[1] == 0).all()
    assert found[0, 1] > 60 and found[0, 0] == (0 if jump else 60)
    assert np.isnan(found[2]).all() != jump  # NaN exceeds no threshold


@pytest.mark.parametrize(("n", "c"), [(70, 300), (530, 620)])
def test_gram(run, n, c):
    x = RNG(1).normal(size=(n, c)).astype(np.float32)
    found = run(gram, jnp.asarray(x))
    assert found.shape == (c, c)
    np.testing.assert_allclose(found, x.T.astype(float) @ x, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(found, gram.reference(jnp.asarray(x)), rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(found, found.T)


def test_top_rows(run):
    f, k, start = 140, 5, 0
    r, seen = RNG(2), np.empty((0, f), np.float32)
    found = plain = (jnp.full((f, k), -jnp.inf), jnp.full((f, k), -1, jnp.int32))
    for rows in (5, 530):
        acts = (np.round(r.normal(size=(rows, f)) * 6) / 2).astype(np.float32)  # many are equal
        acts[:, 0] = 0  # dead
        number = np.arange(start, start + rows, dtype=np.int32)
        number[rows - 2 :] = -1  # filled up
        acts[1, 3] = np.nan
        found = run(top_rows, *found, jnp.asarray(acts), jnp.asarray(number))
        acts[1, 3] = -np.inf  # the reference is not told of NaN
        plain = top_rows.reference(*plain, jnp.asarray(acts), jnp.asarray(number))
        start, seen = start + rows - 2, np.concatenate([seen, acts[: rows - 2]])
        order = np.argsort(-seen, axis=0, kind="stable")[:k].T
        exact = np.take_along_axis(seen.T, order, axis=1)
        many = (exact > -np.inf).sum(axis=1)
        for row, m in enumerate(many):
            np.testing.assert_array_equal(found[0][row, :m], exact[row, :m])
            np.testing.assert_array_equal(found[1][row, :m], order[row, :m])
        np.testing.assert_array_equal(found[0], plain[0])
    np.testing.assert_array_equal(found[1], plain[1])


def shapes(*sizes):
    return tuple(jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in sizes)


F32, I32 = jnp.float32, jnp.int32
PRODUCTION = {
    "encode_max 16k": (
        encode_max,
        shapes(
            ((32, 64, 2304), F32), ((2304, 16384), F32), ((16384,), F32), ((16384,), F32),
            ((32, 64), bool),
        ),
    ),
    "encode_max 65k": (
        encode_max,
        shapes(
            ((16, 128, 2304), F32), ((2304, 65536), F32), ((65536,), F32), ((65536,), F32),
            ((16, 128), bool),
        ),
    ),
    "gram 16k": (gram, shapes(((4096, 16384), F32))),
    "gram 65k": (gram, shapes(((4096, 65536), F32))),
    "top_rows": (
        top_rows,
        shapes(((14336, 20), F32), ((14336, 20), I32), ((4096, 14336), F32), ((4096,), I32)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTION)
@pytest.mark.parametrize(
    ("platform", "target", "call"),
    [("tpu", "tpu", "tpu_custom_call"), ("gpu", "cuda", "__gpu$xla.gpu.triton")],
)
def test_lowers_for_accelerators(name, platform, target, call):
    """At production sizes, also with 64-bit types about, as where moments are taken."""
    module, arrays = PRODUCTION[name]
    with jax.enable_x64(True):
        traced = jax.jit(partial(module.kernel, platform=platform)).trace(*arrays)
        text = traced.lower(lowering_platforms=(target,)).as_text()
    assert text.count(f"stablehlo.custom_call @{call}") == 1
