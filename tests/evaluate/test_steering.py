"""Steering end to end on tiny models, and the report's numbers against loops over its texts."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.atlas import SAE, Atlas, Labels
from atlas_jax.errors import InputError
from atlas_jax.evaluate import evaluate_steering, paper_protocol, protocol_queries
from atlas_jax.evaluate import steering as module
from atlas_jax.evaluate.judges_local import LexicalJudge
from atlas_jax.evaluate.steering_readings import read_features
from atlas_jax.evaluate.steering_tables import (
    identification_rows,
    steered_examples,
    steering_tables,
)
from atlas_jax.identify import Hit, Sample
from atlas_jax.models import load_model
from atlas_jax.query import Query
from atlas_jax.steering import Sampling
from atlas_jax.translate import Translation

SITES = ("blocks.1.mlp.hook_post", "blocks.2.mlp.hook_post")
PROCRUSTES = "Orthogonal Procrustes"
SHORT = Sampling(max_new_tokens=6)


class Letters:
    """Rates by how often a letter occurs; each concept has its own."""

    def __init__(self, name="letters", most=2):
        self.name, self.fingerprint, self.most, self.asked = name, f"{name} {most}", most, []

    def rate(self, concepts, texts):
        self.asked += zip(concepts, texts, strict=True)
        pairs = zip(concepts, texts, strict=True)
        return [min(text.count(concept[0]), self.most) for concept, text in pairs]

    def report(self):
        return {"judge": self.name}


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Compiling is most of the time of these tests, and their models are tiny."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def parts(tiny_llama, tiny_llama_tied):
    rng = np.random.default_rng(0)
    decoder = jnp.asarray(rng.standard_normal((24, 32)), jnp.float32)
    sae = SAE(
        W_enc=decoder.T,
        b_enc=jnp.zeros(24),
        W_dec=decoder,
        b_dec=jnp.zeros(32),
        threshold=jnp.full(24, 1.0),
        architecture="jumprelu",
        k=None,
        apply_b_dec_to_input=False,
    )
    names = Labels.of([(i, f"kind {i}") for i in range(24)])
    model = load_model(tiny_llama)
    atlas = Atlas(
        sae, "blocks.1.hook_resid_post", names, "tiny", lambda: load_model(tiny_llama_tied)
    )
    meta = {"fingerprint": atlas.fingerprint, "model": "atlas"}
    maps = [
        Translation(
            method,
            rng.standard_normal((model.width(site), atlas.sae.n_features)).astype(np.float32),
            {"subject": {"site": site}, "atlas": meta},
        )
        for method in ("covariance", "procrustes")
        for site in SITES
    ]
    queries = {
        "e": atlas.query(features=[0, 2]),
        "a": atlas.query(features=[5]),
        "t": atlas.query(features=[7, 8]),
    }
    return model, atlas, maps, queries


@pytest.fixture(scope="module")
def evaluated(parts, tmp_path_factory):
    model, atlas, maps, queries = parts
    out = tmp_path_factory.mktemp("out")
    judges = [Letters(), LexicalJudge()]
    report = evaluate_steering(
        model,
        atlas,
        (t for t in maps),
        queries,
        judges=judges,
        prompts=["The function", "A list", "If", "Returns"],
        strengths=[-8, 4.0, 20.0],
        sampling=SHORT,
        out=out,
        left_out={"u": "unknown"},
    )
    return report, out, judges


def test_every_method_place_query_and_strength_is_there(parts, evaluated):
    report, out, judges = evaluated
    assert report.methods == ("covariance", "procrustes", "random")
    assert report.places == (*SITES, "combined") and report.strengths == (-8.0, 0.0, 4.0, 20.0)
    assert report.texts.shape == (3, 3, 3, 4, 4) == report.ratings["letters"].shape
    plain = report.texts[:, :, :, 1]
    assert (plain == plain[0, 0, 0]).all() and (report.texts[:, :, :, 3] != plain).any()
    rows = [json.loads(line) for line in (out / "texts.jsonl").read_text().splitlines()]
    assert len(rows) == 4 + 3 * 3 * 3 * 3 * 4
    by_label = {
        (r["method"], r["place"], r["query"], r["strength"], r["prompt"]): r["text"] for r in rows
    }
    assert by_label["procrustes", "combined", "t", 20.0, "If"] == report.texts[1, 2, 2, 3, 2]
    # Each concept and text is judged once.
    assert len(set(judges[0].asked)) == len(judges[0].asked)


def test_random_directions_have_the_norm_of_the_scores(parts):
    _, _, maps, queries = parts
    found = module.query_directions(maps, queries)
    made = module._random(found, SITES, queries, seed=3)
    for site in SITES:
        for name in queries:
            wanted = np.linalg.norm(found["procrustes"][site][name])
            assert np.linalg.norm(made[site][name]) == pytest.approx(wanted, rel=1e-5)
    every = [tuple(made[site][name][:3]) for site in SITES for name in queries]
    assert len(set(every)) == len(every)


def test_numbers_equal_a_loop_over_the_texts(parts, evaluated):
    _, atlas, _, queries = parts
    report, _, _ = evaluated
    judge = Letters()
    for m, p in ((0, 0), (1, 2), (2, 1)):
        expected, changes = [], []
        for q, query in enumerate(report.queries):
            texts = report.texts[m, p, q]
            rated = [judge.rate([query] * 4, row) for row in texts]
            r = [sum(x == 2 for x in row) / max(sum(x != 1 for x in row), 1) for row in rated]
            gain = [(x - r[1]) / (1 - r[1]) * 100 for x in r] if r[1] < 1 else [np.nan]
            expected.append(max(gain))
            features = [queries[query].features] * texts.size
            acts = read_features(atlas, texts.ravel().tolist(), features).reshape(4, 4).mean(axis=1)
            best = min(
                (i for i, g in enumerate(gain) if g == max(gain)),
                key=lambda i: (abs(report.strengths[i]), -report.strengths[i]),
                default=1,
            )
            changes.append(np.nan if best == 1 else acts[best] - acts[1])
        where = report.methods[m], report.places[p]
        np.testing.assert_allclose(report.values(*where), expected, atol=1e-9)
        np.testing.assert_allclose(report.values(*where, "delta_activation"), changes, atol=1e-5)
    assert np.nanmax(np.abs(report.activations)) > 0


def test_intervals_and_differences(evaluated):
    report, _, _ = evaluated
    for over in ("queries", "prompts", "both"):
        found = report.mean("procrustes", "combined", over=over)
        assert found.mean == pytest.approx(np.mean(report.values("procrustes", "combined")))
        assert found.low <= found.high
        gap = report.mean("procrustes", "combined", over=over, baseline="random")
        difference = report.values("procrustes", "combined") - report.values("random", "combined")
        assert gap.mean == pytest.approx(difference.mean())
        same = report.mean("random", "combined", over=over, baseline="random")
        assert tuple(same) == (0, 0, 0)
    for wrong, message in (
        ({"metric": "speed"}, "metric among faithfulness"),
        ({"judge": "me"}, "judge among letters, lexical"),
        ({"over": "texts"}, "over among queries"),
    ):
        with pytest.raises(InputError, match=message):
            report.mean("random", "combined", **wrong)
    with pytest.raises(InputError, match="place among"):
        report.values("random", "nowhere")


def test_the_report_is_json_and_says_what_was_measured(evaluated):
    report, _, _ = evaluated
    facts = report.to_dict()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert set(facts["rows"]) == {"letters", "lexical"} and facts["left_out"] == {"u": "unknown"}
    row = next(
        r
        for r in facts["rows"]["letters"]
        if (r["method"], r["place"]) == ("procrustes", "combined")
    )
    mean = report.mean("procrustes", "combined", baseline="random")
    assert row["faithfulness_minus_random"] == pytest.approx(mean.mean)
    assert facts["agreement"][0]["judges"] == ["letters", "lexical"]
    distinct = {(q, t) for (_, _, q, *_), t in np.ndenumerate(report.texts)}
    assert facts["agreement"][0]["n"] == len(distinct)
    assert facts["subject_fingerprint"] and facts["sampling"]["max_new_tokens"] == 6


def test_a_second_call_does_nothing_again(parts, evaluated, monkeypatch):
    model, atlas, maps, queries = parts
    report, out, _ = evaluated
    judges = [Letters(), LexicalJudge()]
    monkeypatch.setattr("atlas_jax.steering.sweep.generate", None)
    monkeypatch.setattr(type(atlas), "read", None)
    again = evaluate_steering(
        model,
        atlas,
        {site: {t.method: t for t in maps if t.meta["subject"]["site"] == site} for site in SITES},
        queries,
        judges=judges,
        prompts=report.prompts,
        strengths=report.strengths,
        sampling=SHORT,
        out=out,
        left_out={"u": "unknown"},
    )
    assert again.to_dict() == report.to_dict() and judges[0].asked == []


def test_tables(evaluated):
    report, _, _ = evaluated
    table, gaps, *_, paper = steering_tables(report.to_dict())
    assert [row[0] for row in table.rows] == ["Random directions", "Covariance", PROCRUSTES]
    assert {len(row) for row in table.rows} == {7}
    assert "3 queries" in table.caption and table.caption.endswith("judge: letters")
    first = next(row for row in report.rows() if row["method"] == "procrustes")
    assert table.rows[2][1].startswith(f"{first['faithfulness']:.1f} [")
    assert [row[0] for row in gaps.rows] == ["Covariance", PROCRUSTES]
    assert gaps.rows[1][1].startswith(f"{first['faithfulness_minus_random']:.1f} [")
    assert paper.rows[0][0] == "Random directions" and len(paper.head) == 13
    examples = steered_examples(report, "procrustes", "combined")
    assert [e["query"] for e in examples] == ["e", "a", "t"]
    for q, example in enumerate(examples):
        i, s = report.strengths.index(example["strength"]), report.prompts.index(example["prompt"])
        assert example["steered"] == report.texts[1, 2, q, i, s] and example["strength"] != 0
        assert example["unsteered"] == report.texts[1, 2, q, 1, s]
    hit = Hit("blocks.1.mlp.hook_post", 7, 0.5, [], [Sample(3, "text", 2.0), Sample(4, "u", 1.0)])
    (row,) = identification_rows("chess", [hit])
    assert row["feature"] == "blocks.1.mlp.hook_post #7" and row["text"] == "text"


def test_readings_are_of_the_text_alone(parts):
    _, atlas, _, _ = parts
    from atlas_jax.activations.pool import pool_max

    texts = ["The list is empty.", "", "x", "The list is empty.", "Returns a new dictionary."]
    features = [[0, 2], [0], [1], [3], [4, 4, 5]]
    found = read_features(atlas, texts, features)
    for i in (0, 3, 4):
        ids = atlas.tokenizer.encode_batch([texts[i]])
        tokens, mask = atlas.tokenizer.pad(ids, len(ids[0]))
        acts = np.asarray(atlas.read(tokens, mask, pool=pool_max)[atlas.feature_site])[0]
        assert found[i] == pytest.approx(acts[sorted(set(features[i]))].mean(), abs=1e-5)
    assert found[1] == 0.0


def test_bad_input_is_one_line(parts):
    model, atlas, maps, queries = parts
    judge = Letters()

    def run(translations=maps, queries=queries, judges=(judge,), **more):
        options = {"prompts": ["x"], "strengths": [1.0], "sampling": SHORT} | more
        return evaluate_steering(model, atlas, translations, queries, judges=judges, **options)

    for call, message in (
        (lambda: run(judges=[]), "one judge"),
        (lambda: run(queries={}), "one query"),
        (lambda: run(judges=[judge, Letters()]), "different names"),
        (lambda: run(strengths=[0.0]), "strengths beside 0"),
        (lambda: run(strengths=[np.inf]), "finite strengths"),
        (lambda: run(translations=[]), "one translation"),
        (lambda: run(translations=[*maps, maps[0]]), "Two translations by covariance"),
        (lambda: run(translations=maps[:3]), "at the same sites"),
        (lambda: run(directions={"random": {}}), "'random' is the name"),
        (lambda: run(directions={"mine": {s: {} for s in SITES}}), "there is none for a, e, t"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_the_protocol_has_the_papers_numbers(parts):
    protocol = paper_protocol()
    assert len(protocol.queries) == 10 and len(protocol.prompts) == 16
    assert protocol.strengths == (-50, -10, -1, 0, 1, 10, 50) and protocol.max_new_tokens == 100
    assert protocol.queries["dogs and cats"] == (6772, 1089, 12082, 13747)
    assert sum(map(len, protocol.queries.values())) == 240
    assert max(f for fs in protocol.queries.values() for f in fs) < protocol.atlas_features
    assert protocol.qualitative["london"] == ((5218, 12614), 35)
    assert protocol.layers == (3, 12, 19, 25, 30)
    assert len(set(protocol.prompts)) == 16


def test_queries_by_number_in_the_papers_atlas_and_by_name_elsewhere(parts):
    class Paper:
        name, site = "gemma", paper_protocol().atlas_site
        sae = type("Sae", (), {"n_features": 16384})

        def query(self, text=None, features=None):
            if text == "nonsense":
                raise InputError("No description is near.")
            return Query(
                np.ones(3, np.float32), text or "", features or (), (1.0,) * len(features or ())
            )

    found, missing = protocol_queries(Paper())
    asked = {name: query.features for name, query in found.items()}
    assert asked == dict(paper_protocol().queries) and missing == {}
    found, missing = protocol_queries(Paper(), ["eating", "nonsense", "ships"])
    assert found["eating"].features == paper_protocol().queries["eating"]
    assert found["ships"].name == "ships" and list(found) == ["eating", "ships"]
    assert missing == {"nonsense": "No description is near."}
    other = Paper()
    other.site = "blocks.3.hook_resid_post"
    assert protocol_queries(other, ["eating"])[0]["eating"].name == "eating"
    with pytest.raises(InputError, match="the atlas gemma knows: No description"):
        protocol_queries(other, ["nonsense"])
