"""Capture: right rows for any poolings, dtypes and meshes, and bad input refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.activations import ActivationStore, TokenArray, capture
from atlas_jax.atlas import SAE, Atlas, Labels
from atlas_jax.corpus import Texts
from atlas_jax.errors import InputError
from atlas_jax.models import load_model
from atlas_jax.parallel import make_mesh

POOLS = {
    "max": lambda acts: acts.max(0),
    "mean": lambda acts: acts.mean(0),
    "last": lambda acts: acts[-1],
}


def test_rows_are_the_pooled_activations_in_order(source, texts, tmp_path):
    store = capture(source, texts, out=tmp_path / "s", rows_per_part=64, batch_tokens=256)
    assert store.sites == source.sites and len(store) == 150
    for site in source.sites:
        np.testing.assert_array_equal(store[site][:], source.expected(texts, site))
    assert store[source.sites[0]].shape == (150, 6)


def test_several_sites_and_poolings_in_one_pass(source, texts, tmp_path):
    pool = {"blocks.0.a": ("max", "mean"), "blocks.1.b": "last"}
    capture(source, texts, out=tmp_path / "one")
    passes = len(source.shapes)
    store = capture(source, texts, out=tmp_path / "s", pool=pool)
    assert len(source.shapes) == 2 * passes  # one more pass, whatever the poolings
    assert store.pools("blocks.0.a") == ("max", "mean") and store.pools("blocks.1.b") == ("last",)
    for site, name in [("blocks.0.a", "max"), ("blocks.0.a", "mean"), ("blocks.1.b", "last")]:
        expected = source.expected(texts, site, POOLS[name])
        np.testing.assert_allclose(store[site, name][:], expected, rtol=1e-6, atol=1e-7)
        assert store[site, name].meta["pool"] == name
    assert store["blocks.1.b"].meta["pool"] == "last"
    with pytest.raises(InputError, match=r"choose one, store\['blocks.0.a', 'max'\]"):
        store["blocks.0.a"]
    with pytest.raises(InputError, match="among last .* got 'max'"):
        store["blocks.1.b", "max"]


@pytest.mark.parametrize("rows_per_part", [None, 500])
def test_every_token_with_its_id(source, texts, tmp_path, rows_per_part):
    out = tmp_path / "s"
    store = capture(
        source, texts, out=out, pool="tokens", rows_per_part=rows_per_part, batch_tokens=256
    )
    ids = source.tokenizer.encode_batch(texts.texts)
    lengths = [len(row) for row in ids]
    for site in source.sites:
        rows = store[site]
        assert isinstance(rows, TokenArray) and rows.n_texts == 150
        assert rows.shape == (sum(lengths), source.width(site))
        np.testing.assert_array_equal(np.diff(rows.offsets), lengths)
        np.testing.assert_array_equal(rows.ids, np.concatenate(ids))
        expected = source.tokens(texts, site)
        for text in (0, 7, 149, -1):
            np.testing.assert_array_equal(rows.text(text), expected[text])
        np.testing.assert_array_equal(rows[:], np.concatenate(expected))
    with pytest.raises(IndexError, match="text 150 of 150"):
        store["blocks.0.a"].text(150)


def test_memory_url_and_bfloat16(texts, table_source):
    source = table_source(dtype=jnp.bfloat16)
    store = capture(source, texts, ["blocks.1.b"], out="memory://bf/", rows_per_part=64)
    rows = ActivationStore.open("memory://bf/")["blocks.1.b"]
    assert rows.dtype == jnp.bfloat16 and store.sites == ("blocks.1.b",)
    np.testing.assert_array_equal(
        np.asarray(rows[:], np.float32), source.expected(texts, "blocks.1.b")
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_values_are_stored_in_the_dtype_asked_for(source, texts, tmp_path, dtype):
    rows = capture(source, texts, out=tmp_path / "s", dtype=dtype)["blocks.0.a"]
    assert rows.dtype == jnp.dtype(dtype)
    expected = source.expected(texts, "blocks.0.a").astype(jnp.dtype(dtype))
    np.testing.assert_array_equal(rows[:].view(np.uint16), expected.view(np.uint16))


def test_a_mesh_of_eight_devices_gives_what_one_gives(source, texts, tmp_path):
    one = capture(source, texts, out=tmp_path / "one", batch_tokens=256, rows_per_part=64)
    plain, source.shapes[:] = list(source.shapes), []
    source.mesh = make_mesh()
    eight = capture(source, texts, out=tmp_path / "eight", batch_tokens=256, rows_per_part=64)
    for site in source.sites:
        np.testing.assert_array_equal(one[site][:], eight[site][:])
    # The plan is the same; batches of fewer rows are filled up.
    assert [(-(-b // 8) * 8, t) for b, t in plain[1:]] == source.shapes[1:]
    assert one.meta == eight.meta


@pytest.mark.parametrize("model", [1, 2])
def test_a_model_on_a_mesh_gives_what_one_device_gives(tiny_llama, sentences, tmp_path, model):
    texts = Texts(list(sentences) * 5)
    sites = ["blocks.0.mlp.hook_post", "blocks.1.hook_resid_post"]
    one = load_model(tiny_llama)
    mesh = make_mesh(model=model)
    spread = load_model(tiny_llama, mesh=mesh)
    assert one.mesh is None and spread.mesh == mesh
    for pool in ("max", "tokens"):
        expected = capture(one, texts, sites, out=tmp_path / f"one-{pool}", pool=pool)
        found = capture(spread, texts, sites, out=tmp_path / f"spread-{pool}", pool=pool)
        for site in sites:
            scale = np.abs(expected[site][:]).max()
            np.testing.assert_allclose(found[site][:], expected[site][:], atol=2e-6 * scale)


@pytest.mark.parametrize("spread", [False, True])
def test_an_atlas(tiny_llama, sentences, tmp_path, spread):
    model = load_model(tiny_llama, mesh=make_mesh() if spread else None)
    rng = np.random.default_rng(0)
    weights = [jnp.asarray(rng.normal(size=s).astype("f4")) for s in [(32, 20), 20, (20, 32), 32]]
    sae = SAE(*weights, threshold=jnp.full(20, 3.0), architecture="jumprelu")
    atlas = Atlas(sae, "blocks.1.hook_resid_post", Labels({}), "tiny", lambda: model)
    texts, (site,) = Texts(list(sentences)), atlas.sites
    assert atlas.mesh == model.mesh
    tokens = capture(atlas, texts, out=tmp_path / "tokens", pool="tokens")[site]
    pooled = capture(atlas, texts, out=tmp_path / "s", pool=("max", "mean"), dtype="bfloat16")
    rows = [tokens.text(i)[1:] for i in range(len(texts))]
    for pool in ("max", "mean"):
        expected = np.stack([POOLS[pool](acts) for acts in rows])
        assert (expected > 0).any() and pooled[site, pool].dtype == jnp.bfloat16
        found = np.asarray(pooled[site, pool][:], np.float32)
        np.testing.assert_allclose(found, expected, rtol=2**-8, atol=1e-4)


def test_batches_really_lie_on_all_devices(source, texts, tmp_path):
    source.mesh, seen, inner = make_mesh(), set(), source.read

    def read(tokens, *rest):
        if isinstance(tokens, jax.Array) and not isinstance(tokens, jax.core.Tracer):
            seen.add(len({str(shard.index) for shard in tokens.addressable_shards}))
        return inner(tokens, *rest)

    source.read = read
    capture(source, texts, out=tmp_path / "s")
    assert seen == {8}


def test_the_report_says_what_was_done_and_what_limited(source, texts, tmp_path):
    store = capture(source, texts, out=tmp_path / "s", batch_tokens=256)
    (report,) = store.report
    lengths = [len(row) for row in source.tokenizer.encode_batch(texts.texts)]
    assert report["texts"] == 150 and report["tokens"] == sum(lengths)
    positions = sum(b * t for b, t in source.shapes[1:])  # the first asks for the shapes alone
    assert report["positions"] == positions
    assert report["padding"] == pytest.approx(1 - sum(lengths) / positions)
    assert report["shapes"] == len(set(source.shapes[1:]))
    assert report["written"] == 150 * 4 * (6 + 9)
    assert report["limit"] in ("disk", "forward pass")
    assert report["seconds"] >= report["forward_waited"] >= 0
    assert capture(source, texts, out=tmp_path / "s").report == [report]  # nothing was done


def test_long_texts_are_cut_and_counted(source, texts, tmp_path):
    store = capture(source, texts, out=tmp_path / "s", max_tokens=10)
    rows = source.tokenizer.encode_batch(texts.texts)
    assert store.meta["cut"] == sum(len(row) > 10 for row in rows) > 0
    cut = [" ".join(text.split()[:10]) for text in texts]
    np.testing.assert_array_equal(store["blocks.0.a"][:], source.expected(cut, "blocks.0.a"))


def test_bad_input(source, texts, tmp_path):
    def asked(match, *arguments, **settings):
        with pytest.raises(InputError, match=match):
            capture(source, *arguments, out=tmp_path / "bad", **settings)

    asked("got 'blocks.9.a'", texts, ["blocks.9.a"])
    asked("the string 'blocks.0.a'", texts, "blocks.0.a")
    asked("at least one site", texts, [])
    asked("Text 1 .'word'. has 1 token", Texts(["two words", "word"]))
    asked("at least one text", Texts([]))
    asked("max_tokens of at least 2, got 1", texts, max_tokens=1)
    asked("batch_tokens and rows_per_part of at least 1, got 0", texts, batch_tokens=0)
    asked("among float32, bfloat16, float16, got 'int8'", texts, dtype="int8")
    assert not (tmp_path / "bad").exists()
    with pytest.raises(InputError, match="file, gs, s3, memory"):
        capture(source, texts, out="ftp://somewhere")
    with pytest.raises(InputError, match="found none: capture first"):
        ActivationStore.open(tmp_path / "s")
    source.tables["blocks.0.a"][:, 2] = np.nan
    with pytest.raises(InputError, match="blocks.0.a/max, row 0 has NaN"):
        capture(source, texts, out=tmp_path / "nan")
    source.tables["blocks.0.a"][:] = 1e5
    with pytest.raises(InputError, match="row 0 has NaN or infinity: try another dtype"):
        capture(source, texts, out=tmp_path / "inf", dtype="float16")
