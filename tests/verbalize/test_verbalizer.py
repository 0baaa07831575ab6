"""The tiny verbalizers, through the loader that released ones go through, natively and foreign."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from atlas_jax.errors import InputError
from atlas_jax.verbalize import (
    BARE,
    Background,
    Bridge,
    Ridge,
    Verbalizer,
    Washout,
    load_verbalizer,
    solve_bridge,
)
from atlas_jax.verbalize.bridge_moments import PairSums

from .tiny.world import make_world

TINY = Path(__file__).parent / "tiny"
WORLD = make_world()
SOURCE = {"model": "qwen2", "site": "blocks.4.hook_resid_post", "width": 64}
TARGET = {"model": "gemma3", "site": "blocks.6.hook_resid_post", "width": 72}
WASH = Washout()


def background(side):
    return Background(WORLD.activations(600, 11)[side].astype(np.float32), {})


@pytest.fixture(scope="module")
def native() -> Verbalizer:
    return load_verbalizer(TINY / "qwen2", background=background(0), max_new_tokens=8)


@pytest.fixture(scope="module")
def foreign() -> Verbalizer:
    return load_verbalizer(TINY / "gemma3", background=background(1), max_new_tokens=8)


def fit(x, y, seed=0, target=TARGET) -> Bridge:
    sums = PairSums(5, 0)
    sums.add(x, y, np.random.default_rng(seed).integers(10, 20, len(x)))
    return solve_bridge(sums.moments({"source": SOURCE, "target": target}), Ridge())


@pytest.fixture(scope="module")
def rows():
    return WORLD.activations(3000, 3)


@pytest.fixture(scope="module")
def bridge(rows) -> Bridge:
    return fit(*rows)


def accuracy(verbalizer, directions, washout=WASH, seen=False):
    said = verbalizer.explain_all(directions, washout)
    names = WORLD.names(seen)
    return float(np.mean([e[0].text == name for e, name in zip(said, names, strict=True)]))


def test_each_names_concepts_that_it_never_saw(native, foreign):
    assert min(len(WORLD.names(False)), len(set(WORLD.names(True)))) > 30
    assert accuracy(native, WORLD.codes("source", False)) >= 0.95
    assert accuracy(foreign, WORLD.codes("target", False)) >= 0.95


def test_over_the_bridge_and_over_the_wrong_ones(rows, bridge, foreign):
    x, y = rows
    codes = WORLD.codes("source", False)
    assert accuracy(foreign, bridge.directions(codes)) >= 0.9
    as_points = bridge.points(codes)
    assert accuracy(foreign, as_points, BARE) <= 0.3
    assert accuracy(foreign, -bridge.directions(codes)) <= 0.05
    rng = np.random.default_rng(4)
    assert accuracy(foreign, fit(x, y[rng.permutation(len(y))]).directions(codes)) <= 0.1
    mixed = codes[:, rng.permutation(64)]  # another basis
    assert accuracy(foreign, bridge.directions(mixed)) <= 0.1
    unscaled = (codes / bridge.scale_x) @ (bridge.matrix * bridge.scale_x).T / bridge.scale_y
    assert unscaled.shape == (len(codes), 72)
    with pytest.raises(ValueError, match="mismatch"):
        codes @ bridge.matrix  # transposed: p is not q


def test_the_whole_lift_and_its_page(rows, bridge, native, foreign, tmp_path):
    from atlas_jax.verbalize.lift_page import save_lift
    from atlas_jax.verbalize.lift_run import LiftPlan, measure_lift

    class Words:
        """Bags of words."""

        def embed(self, texts):
            words = [w for name in (*WORLD.names(True), *WORLD.names(False)) for w in name.split()]
            index = {w: i for i, w in enumerate(dict.fromkeys(words))}
            found = np.zeros((len(texts), len(index) + 1), np.float32)
            for row, text in zip(found, texts, strict=True):
                for word in text.split():
                    row[index.get(word, -1)] += 1
            return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)

    x, y = rows
    shuffled = fit(x, y[np.random.default_rng(4).permutation(len(y))])
    directions, names = WORLD.codes("source", False)[:24], WORLD.names(False)[:24]
    plan = LiftPlan(random=16, draws=300, permutations=199)
    result = measure_lift(
        directions, native, foreign, bridge, Words(), plan, names, shuffled=shuffled
    )
    figures = result["figures"]
    assert figures["lift_spec"]["low"] > 0.6 and figures["permutation"]["p"] == 1 / 200
    assert figures["top1"] >= 0.9
    assert all(value["low"] > 0.5 for value in figures["lift_rand"].values())
    assert set(figures["lift_rand"]) == {"mapped_gauss", "mapped_cov", "target_iso"}
    for name in ("shuffled_map", "swapped"):
        assert figures["nulls"][name]["high"] < 0.4
        assert abs(figures["nulls"][name]["mean"]) < 0.15
    assert figures["nulls"]["sign_flip"]["low"] <= 0
    assert figures["quirks"]["untagged"] == 0
    assert all(f["t"] > 0.5 and 0 < f["rho"] <= 1.000001 for f in result["features"])
    json.dumps(result)  # nothing that JSON cannot hold
    page = save_lift(result, tmp_path / "lift.html").read_text()
    for feature in result["features"]:
        assert f">{feature['name']}<" in page and feature["native"][0] in page
    assert "<script" not in page and "://" not in page
    given = measure_lift(directions, names, foreign, bridge, Words(), plan)
    assert given["figures"]["lift_spec"]["mean"] > 0.6


def test_a_rotated_twin_says_the_same_token_for_token(native, rows, tmp_path):
    """T = S in other coordinates of the residual stream: M is the rotation, all texts are equal."""
    from safetensors.numpy import load_file, save_file

    q = np.linalg.qr(np.random.default_rng(1).standard_normal((64, 64)))[0]
    folder = Path(shutil.copytree(TINY / "qwen2", tmp_path / "twin"))
    old = {k: v.astype(np.float64) for k, v in load_file(folder / "model.safetensors").items()}
    new = dict(old)
    into = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight")
    for name, value in old.items():
        layer = name.rsplit("self_attn" if "self_attn" in name else "mlp", 1)[0]
        gain = layer + ("input_layernorm" if "self_attn" in name else "post_attention_layernorm")
        if name.endswith(into):
            new[name] = value * old[f"{gain}.weight"] @ q.T
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            new[name] = q @ value
        elif "norm" in name:
            new[name] = np.ones(64)
    new["model.embed_tokens.weight"] = old["model.embed_tokens.weight"] @ q.T
    head = old["model.embed_tokens.weight"] * old["model.norm.weight"] @ q.T
    new["lm_head.weight"] = head
    save_file({k: v.astype(np.float32) for k, v in new.items()}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    x = rows[0]
    mean = background(0).rows
    twin = load_verbalizer(
        folder, background=Background((mean @ q.T).astype(np.float32), {}), max_new_tokens=8
    )
    sums = PairSums(5, 0)
    sums.add(x, x @ q.T, np.random.default_rng(0).integers(10, 20, len(x)))
    over = solve_bridge(sums.moments({"source": SOURCE, "target": SOURCE}), Ridge(choose=1e-6))
    np.testing.assert_allclose(over.matrix, q, atol=1e-3)
    codes = WORLD.codes("source", False)[:16]
    ours = native.explain_all(codes, WASH)
    theirs = twin.explain_all(over.directions(codes), WASH, bridge=over)
    assert [e[0].raw for e in ours] == [e[0].raw for e in theirs]
    # The identity bridge: source and target are one.
    same = PairSums(5, 0)
    same.add(x, x, np.random.default_rng(0).integers(10, 20, len(x)))
    identity = solve_bridge(same.moments({"source": SOURCE, "target": SOURCE}), Ridge(choose=1e-8))
    np.testing.assert_allclose(identity.matrix, np.eye(64), atol=1e-4)


@pytest.mark.parametrize("name", ["qwen2", "gemma3"])
def test_injection_changes_one_row_to_the_scale_and_generation_is_transformers(name, request):
    """The oracle: transformers' own model of the checkpoint, greedy, from the same embeddings."""
    import torch
    from transformers import AutoModelForCausalLM

    verbalizer = request.getfixturevalue("native" if name == "qwen2" else "foreign")
    side = "source" if name == "qwen2" else "target"
    code = WORLD.codes(side, False)[:1]
    vector = np.asarray(code)[:, None]
    embeds, rows, edit = verbalizer.prepare(vector)
    plain = np.asarray(verbalizer.model.embed(np.array([verbalizer.ids]))[0])
    mine = np.asarray(embeds[0, 0])
    changed = np.flatnonzero((mine != plain).any(axis=1))
    assert changed.tolist() == [verbalizer.position] and rows is None and edit is None
    scale = 8.0 if name == "qwen2" else 72**0.5
    np.testing.assert_allclose(np.linalg.norm(mine[changed[0]]), scale, rtol=1e-6)
    theirs = AutoModelForCausalLM.from_pretrained(TINY / name, dtype=torch.float32).eval()
    inner = theirs.get_input_embeddings()
    with torch.no_grad():
        np.testing.assert_allclose(inner(torch.tensor(verbalizer.ids)).numpy(), plain, atol=1e-5)
    for washout in (WASH, BARE):
        from atlas_jax.verbalize.washout import streams

        vectors, _ = streams(code, washout, verbalizer.background)
        embeds = torch.tensor(np.asarray(verbalizer.prepare(vectors)[0][0]))
        ids: list[int] = []
        with torch.no_grad():
            while len(ids) < 8:  # no cache: each step reads all again
                chosen = int(theirs(inputs_embeds=embeds).logits[0, -1].argmax())
                if chosen in verbalizer.model.stop_ids:
                    break
                ids.append(chosen)
                embeds = torch.cat([embeds, inner(torch.tensor([[chosen]]))], dim=1)
        text = verbalizer.model.tokenizer.inner.decode(ids)
        assert verbalizer.explain_all(code, washout)[0][0].raw == text


def test_the_vector_is_what_is_read_not_its_length(native):
    codes = WORLD.codes("source", False)[:3]
    said = [e[0].raw for e in native.explain_all(codes, WASH)]
    assert said == [e[0].raw for e in native.explain_all(1e-3 * codes, WASH)]
    assert len(set(said)) == 3
    zero = [e[0].raw for e in native.explain_all(codes, Washout(angle=1e-3))]
    assert len(set(zero)) == 1  # at no angle, the background alone


def test_washouts_b_and_c_run_and_keep_the_words(native):
    codes, names = WORLD.codes("source", False)[:12], WORLD.names(False)[:12]
    for washout in (
        Washout(omega=1.0),
        Washout(omega=0.5, against="random"),
        Washout(members=4),
        Washout(members=4, omega=0.5),
    ):
        said = [e[0].text for e in native.explain_all(codes, washout)]
        assert np.mean([a == b for a, b in zip(said, names, strict=True)]) >= 0.75
    once, again = (native.explain_all(codes[:2], WASH, samples=3, temperature=1.0) for _ in "ab")
    assert once == again and len(once[0]) == 3


@pytest.mark.parametrize("mode", ["add_norm_matched", "replace_residual"])
def test_residual_modes_edit_one_position_of_one_layer(native, mode):
    """What the next layer reads, by the model's own taps."""
    import jax.numpy as jnp
    from flax import nnx

    from atlas_jax.models.sites import Site

    made = Verbalizer(
        native.model, native.description.with_values({"mode": mode, "layer": 0}), native.background
    )
    vectors = WORLD.codes("source", False)[:1][:, None]
    embeds, rows, edit = made.prepare(vectors)
    site = Site(0, "hook_resid_post")
    decoder = nnx.merge(native.model.graph, native.model.state)
    mask = jnp.ones(embeds.shape[1:3], bool)
    _, before, _ = decoder(embeds[0], mask, taps=(site,))
    h = np.asarray(before[site])[0]
    assert edit is not None and edit.position == made.position and rows is not None
    v = vectors[0, 0] / np.linalg.norm(vectors[0, 0])
    expected = h.copy()
    if mode == "add_norm_matched":
        expected[made.position] += np.linalg.norm(h[made.position]) * v
        np.testing.assert_allclose(np.linalg.norm(np.asarray(rows)), 1, rtol=1e-5)
    else:
        expected[made.position] = 8.0 * v
    first, _, _ = decoder(embeds[0], mask, swaps={site: lambda _: jnp.asarray(expected)[None]})
    from atlas_jax.verbalize.decoding import _start

    loop = _start(
        native.model.graph, native.model.state, embeds[0], rows[0], groups=1, edit=edit, max_new=2
    )
    np.testing.assert_allclose(loop[4][0, 0], first[0, -1], rtol=1e-4, atol=1e-4)


def test_a_prefix_adapter_puts_rows_before_the_prompt(native, tmp_path):
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    prefix = rng.standard_normal((3, 64)).astype(np.float32)
    projection = rng.standard_normal((50, 64)).astype(np.float32)
    path = tmp_path / "adapter.safetensors"
    save_file({"prefix": prefix, "projection": projection}, path)
    wanted = {"mode": "prefix_adapter", "adapter": str(path), "d_model": 50}
    made = Verbalizer(native.model, native.description.with_values(wanted))
    v = rng.standard_normal((1, 1, 50))
    embeds, *_ = made.prepare(v)
    assert embeds.shape == (1, 1, 3 + len(made.ids), 64)
    np.testing.assert_allclose(embeds[0, 0, :3], prefix)
    row = 8.0 * v[0, 0] / np.linalg.norm(v) @ projection
    np.testing.assert_allclose(embeds[0, 0, 3 + made.position], row, rtol=1e-4, atol=1e-4)
    assert isinstance(made.explain(v[0, 0]), str)


def test_a_text_is_parsed_and_a_missing_end_is_marked(native):
    whole = native.parse("<explanation> a\n\n b </explanation> more")
    assert whole.text == "a\n\n b" and whole.complete
    open_ = native.parse("<explanation> a")
    assert open_.text == "a" and not open_.complete
    last = Verbalizer(native.model, native.description.with_values({"part": "last_paragraph"}))
    assert last.parse("<explanation>a\n\nb</explanation>").text == "b"


def changed(tmp_path, old, new, file="nla_meta.yaml") -> Path:
    folder = Path(shutil.copytree(TINY / "qwen2", tmp_path / "changed"))
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    return folder


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("role: av", "role: ar", "reconstructor reads text"),
        ("<concept>{injection_char}</concept>", "{injection_char}", "found it between"),
        ("<concept>{injection_char}", "<concept>", "{injection_char} once"),
        ("{injection_char}</concept>", "{injection_char}㈎</concept>", "found it 2 times"),
        ("d_model: 64", "d_model: 65", "model's width 64"),
        ("injection_left_neighbor_id: ", "injection_left_neighbor_id: 9", "between the tokens"),
        ("injection_token_id: ", "injection_token_id: 1", "the tokenizer says"),
        ("{injection_scale: 8.0}", "{}", "injection_scale"),
        ("{injection_scale: 8.0}", "{injection_scale: -1}", "scale above 0"),
        ("kind: nla_model", "kind: [", "as YAML"),
    ],
)
def test_a_drifted_description_is_refused(tmp_path, old, new, message):
    with pytest.raises(InputError, match=message.replace("{", "\\{")):
        load_verbalizer(changed(tmp_path, old, new))


def test_older_sidecars_and_configs_describe_the_same(tmp_path, native):
    old = changed(tmp_path, "extraction_layer_index: 4", "critic: {num_hidden_layers: 5}")
    text = (old / "nla_meta.yaml").read_text().replace("  av: ", "  actor: ")
    (old / "nla_meta.yaml").write_text(text)
    assert load_verbalizer(old, max_new_tokens=8).description == native.description
    char, token, left, right = native.description.marker
    entry = {
        "checkpoint": {"id": str(TINY / "qwen2")},
        "reads": {"model": "a/qwen2", "block": 4, "hidden_states_index": 5, "d_model": 64},
        "injection": {
            "mode": "replace_embedding",
            "scale": "raw",
            "marker": {"char": char, "id": token, "left": left, "right": right},
        },
        "prompt": {"template": native.description.template},
        "decode": {"max_new_tokens": 8, "stop_strings": ["</explanation>"]},
        "parse": {"open": "<explanation>", "close": "</explanation>"},
    }
    made = load_verbalizer("any", config=entry)
    assert made.description.site == SOURCE["site"] and made.description.scale is None
    with pytest.raises(InputError, match="how long"):
        made.explain(WORLD.source[0, 0])
    (tmp_path / "bare").mkdir()
    shutil.copytree(TINY / "qwen2", tmp_path / "bare", dirs_exist_ok=True)
    (tmp_path / "bare" / "nla_meta.yaml").unlink()
    with pytest.raises(InputError, match="describe the verbalizer"):
        load_verbalizer(tmp_path / "bare")
    entry["reads"]["hidden_states_index"] = 4
    with pytest.raises(InputError, match=r"block \+ 1"):
        load_verbalizer("any", config=entry)


def test_a_bridge_to_something_else_is_refused(bridge, native, foreign):
    foreign.check(bridge)
    with pytest.raises(InputError, match="Expected a bridge to"):
        native.check(bridge)
    named = Verbalizer(foreign.model, foreign.description.with_values({"model": "org/other"}))
    with pytest.raises(InputError, match="org/other"):
        named.check(bridge)
    with pytest.raises(InputError, match="width 72"):
        foreign.explain(np.ones(64))
    with pytest.raises(InputError, match="not zero"):
        foreign.explain(np.zeros(72))
