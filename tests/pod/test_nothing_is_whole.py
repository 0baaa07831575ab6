"""No device holds a wide matrix or N rows whole: from shardings and from the compiled programs."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from atlas_jax.atlas import load_atlas
from atlas_jax.evaluate.mesh_ranking import _add, _rank
from atlas_jax.on_host import _cut, on_host
from atlas_jax.parallel import make_mesh
from atlas_jax.translate import fit
from atlas_jax.translate.device_sums import DeviceSums, _added, _update
from atlas_jax.translate.moments import Wanted
from atlas_jax.translate.polar_iteration import _full_rank, _iterate, coefficients

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
DS, DC, ROWS = 192, 1024, 64
WANTED = Wanted(cross=True, unit=True, gram="float32", unit_gram=True, top=4)


@pytest.fixture
def read(monkeypatch):
    """The modules that read compiled programs and make shapes of arguments."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import collectives
    import communication

    yield collectives, communication
    for name in ("collectives", "communication", "scale", "measure"):
        sys.modules.pop(name, None)


def state_of(sums, struct):
    with jax.enable_x64(True):
        state = jax.eval_shape(sums._empty)

    def lay(x):
        wide = x.ndim == 3 and x.dtype == "float64"
        return struct(x.shape, x.dtype, sums.mesh, *(("data", "model") if wide else ("data",)))

    return jax.tree.map(lay, state)


@pytest.mark.parametrize("shape", [(1, 8), (2, 4)])
def test_sums_stay_apart(read, shape):
    collectives, communication = read
    mesh, struct = make_mesh(*shape), communication._struct
    sums = DeviceSums({"a": DS}, DC, WANTED, None, ROWS, mesh)
    state = state_of(sums, struct)
    acts = {"a": struct((ROWS, DS), "float32", mesh, "data")}
    shifts = {
        "atlas": struct((DC,), "float32", mesh),
        "sites": {"a": struct((DS,), "float32", mesh)},
    }
    with jax.enable_x64(True):
        step = _update.lower(
            state,
            acts,
            struct((ROWS, DC), "float32", mesh, "data"),
            struct((ROWS,), "int32", mesh, "data"),
            shifts,
            mesh=mesh,
            columns=(0, DC),
            wanted=WANTED,
        ).compile()
        added = _added.lower(state, mesh).compile()
    assert collectives.collectives(step.as_text(), 8) == []  # nothing is sent in a step
    gram = DC * DC * 8
    share = gram // shape[1]
    # A device's part of the float64 Gram matrix is the largest array that any device has.
    assert collectives.largest_array(step.as_text()) <= share
    assert collectives.largest_array(added.as_text()) <= share
    whole = 2 * gram + 2 * DS * DC * 8
    memory = step.memory_analysis()
    assert memory.argument_size_in_bytes < 1.2 * whole / shape[1]
    assert memory.temp_size_in_bytes < 1.2 * whole / shape[1]
    out = added.output_shardings["atlas"]["gram"]
    assert out.shard_shape((DC, DC)) == (DC // shape[1], DC)


def test_the_polar_factor_stays_apart(read):
    collectives, communication = read
    mesh = make_mesh(1, 8)
    split = NamedSharding(mesh, PartitionSpec(None, "model"))
    m, n = 64, 2048
    x = communication._struct((m, n), "float32", mesh, None, "model")
    compiled = _iterate.lower(x, coefficients(1e-6), "float32", split).compile()
    assert collectives.largest_array(compiled.as_text()) <= m * n * 4 // 8
    assert {c.kind for c in collectives.collectives(compiled.as_text(), 8)} == {"all-reduce"}
    with jax.enable_x64(True):
        wide = communication._struct((m, n), "float64", mesh, None, "model")
        square = jax.ShapeDtypeStruct((), jnp.float64)
        check = _full_rank.lower(wide, square).compile()
    assert collectives.largest_array(check.as_text()) <= m * n * 8 // 8


def test_what_goes_to_the_host_is_sent_in_blocks(read):
    collectives, communication = read
    mesh = make_mesh(2, 4)
    split = NamedSharding(mesh, PartitionSpec("model"))
    x = communication._struct((256, 512), "float32", mesh, "model")
    start = jax.ShapeDtypeStruct((), jnp.int32)
    cut = _cut.lower(x, start, axis=1, size=32, split=split).compile()
    # Its own rows, or a block of all rows; never both.
    assert collectives.largest_array(cut.as_text()) <= 256 * 512 * 4 // 4
    values = np.arange(12.0, dtype=np.float32).reshape(4, 3)
    np.testing.assert_array_equal(on_host(jax.device_put(values, split)), values)


@pytest.mark.parametrize("shape", [(8, 1), (2, 4)])
def test_a_device_ranks_its_own_columns(read, shape):
    collectives, communication = read
    mesh, struct = make_mesh(*shape), communication._struct
    n, batch, methods, q, ds = 4096, 64, 2, 256, 48
    columns = (None, None, ("model", "data"))
    scores = struct((n, methods, q), "float32", mesh, *columns)
    labels = struct((n, 1, q), "bool", mesh, *columns)
    start = jax.ShapeDtypeStruct((), jnp.int32)
    add = _add.lower(
        scores,
        struct(shape, "int32", mesh, "data", "model"),
        struct((batch, ds), "float32", mesh, "data"),
        struct((ds, methods, q), "float32", mesh, None, None, "model"),
        start,
        mesh=mesh,
        cosine=False,
    ).compile()
    rank = _rank.lower(scores, labels, mesh=mesh, n=n - 7).compile()
    share = n * methods * q * 4 // 8
    for compiled in (add, rank):
        assert collectives.largest_array(compiled.as_text()) <= share
        assert compiled.memory_analysis().temp_size_in_bytes < 1.2 * share
    # Sent are a batch's scores, and in the end two numbers of each column.
    sent = collectives.collectives(add.as_text(), 8)
    assert {c.kind for c in sent} == {"all-to-all"}
    assert sum(c.bytes for c in sent) == batch * methods * q * 4 // 8
    assert sum(c.bytes for c in collectives.collectives(rank.as_text(), 8)) == 2 * methods * q * 4


def test_features_stay_apart(read, monkeypatch, tmp_path):
    from atlas_jax.activations.pool import POOLS
    from atlas_jax.atlas import atlas as module
    from atlas_jax.pipeline.smoke import smoke_recipe

    collectives, _ = read
    recipe = smoke_recipe(tmp_path)
    one = load_atlas(recipe.atlas.reference)
    mesh = make_mesh(2, 4)
    split = load_atlas(recipe.atlas.reference, mesh=mesh)
    assert split.sae.W_enc.sharding.shard_shape(split.sae.W_enc.shape) == (32, 24)
    assert split.sae.threshold.sharding.shard_shape((96,)) == (24,)
    tokens = np.random.default_rng(0).integers(3, 200, (4, 16)).astype(np.int32)
    mask = np.ones((4, 16), bool)
    for pool in ("max", "mean"):
        (found,) = split.read(tokens, mask, pool=POOLS[pool]).values()
        (expected,) = one.read(tokens, mask, pool=POOLS[pool]).values()
        assert found.sharding.shard_shape(found.shape) == (2, 24)
        np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=1e-5)
    odd, whole = (
        next(iter(atlas.read(tokens[:3], mask[:3], pool=POOLS["max"]).values()))
        for atlas in (split, one)
    )
    np.testing.assert_allclose(np.asarray(odd), np.asarray(whole), atol=1e-5)
    leaves, tree = jax.tree.flatten(split.sae)

    def read(leaves, state, tokens, mask):
        sae = jax.tree.unflatten(tree, leaves)
        graph, site, limit = split.model.graph, split.site, split.max_norm
        return module._read(graph, state, sae, tokens, mask, site, POOLS["max"], limit, mesh)

    program = jax.jit(read).lower(leaves, split.model.state, jnp.asarray(tokens), jnp.asarray(mask))
    compiled = program.compile()
    sent = collectives.collectives(compiled.as_text(), 8)
    assert not [c for c in sent if c.shape[-1:] == (96,) or c.shape == (32, 96)]


def test_rows_are_never_on_a_device_all_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    n = 1000
    atlas = np.maximum(rng.standard_normal((n, 40)), 0).astype(np.float32)
    subject = rng.standard_normal((n, 24)).astype(np.float32)
    seen = []
    place = DeviceSums._place

    def watched(self, rows):
        placed = place(self, rows)
        seen.append((placed.shape, placed.sharding.shard_shape(placed.shape)))
        return placed

    monkeypatch.setattr(DeviceSums, "_place", watched)
    fit(subject, atlas, ("covariance", "procrustes"), mesh=make_mesh(8, 1), batch_rows=96)
    assert seen and all(whole[0] == 96 and part[0] == 12 for whole, part in seen)
