"""The recipe of a lift: what ships, what it takes, and every stage of it on tiny stand-ins."""

import json
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from atlas_jax.atlas.formats.saelens import save_saelens
from atlas_jax.atlas.sae import SAE
from atlas_jax.cli.app import app
from atlas_jax.errors import InputError
from atlas_jax.pipeline.lift_plan import explanations, plan_lift
from atlas_jax.pipeline.lift_recipe import LiftRecipe, is_lift, load_lift_recipe
from atlas_jax.pipeline.lift_run import run_lift
from atlas_jax.pipeline.passages import cut, read_passages
from atlas_jax.verbalize import Bridge

TINY = Path(__file__).parents[1] / "verbalize" / "tiny"
WORDS = "red cold quiet old bright heavy river engine letter garden winter soldier".split()
SITE = "blocks.0.hook_resid_post"


class Words:
    """A vector for each text."""

    def embed(self, texts):
        rows = np.stack(
            [np.random.default_rng(crc32(t.encode())).standard_normal(16) for t in texts]
        )
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Compiling is most of the time of these tests, and their models are tiny."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory) -> Path:
    """The recipe that ships, on two tiny models that their own tiny verbalizers read."""
    place = tmp_path_factory.mktemp("lift")
    for name in ("qwen2", "gemma3"):
        shutil.copytree(TINY / name, place / name)
        path = place / name / "nla_meta.yaml"
        sidecar = yaml.safe_load(path.read_text("utf-8")) | {"extraction_layer_index": 0}
        path.write_text(yaml.safe_dump(sidecar, allow_unicode=True), "utf-8")
    rng = np.random.default_rng(0)
    rows = [jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((64, 9), (9, 64))]
    sae = SAE(rows[0], jnp.zeros(9), rows[1], jnp.zeros(64))
    save_saelens(sae, place / "sae", site=SITE, model_name=str(place / "qwen2"))
    texts = [" ".join(rng.choice(WORDS, 40)) for _ in range(60)]
    (place / "texts.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts))
    shipped = tomllib.loads(
        (Path(__file__).parents[2] / "atlas_jax/recipes/nla_qwen25_gemma3.toml").read_text()
    )
    sides = {"native": "qwen2", "foreign": "gemma3"}
    recipe = replace(
        load_lift_recipe("nla_qwen25_gemma3"),
        name="stand_in",
    ).with_values(
        {
            "bridge.source": str(place / "qwen2"),
            "bridge.target": str(place / "gemma3"),
            "bridge.source_site": SITE,
            "bridge.target_site": SITE,
            "bridge.dtype": "float32",
            "bridge.pairs": 400,
            "bridge.min_left": 4,
            "corpus.source": str(place / "texts.jsonl"),
            "corpus.characters": 120,
            "features.sae": str(place / "sae"),
            "features.count": 4,
            **{f"verbalizers.{key}.id": str(place / name) for key, name in sides.items()},
            **{f"verbalizers.{key}.reads": name for key, name in sides.items()},
            **{f"verbalizers.{key}.block": 0 for key in sides},
            **{f"verbalizers.{key}.dtype": "float32" for key in sides},
            "verbalizers.foreign.revision": "",
            "lift.samples": 2,
            "lift.random": 3,
            "lift.draws": 50,
            "lift.permutations": 19,
            "lift.clusters": 2,
            "lift.max_new_tokens": 6,
        }
    )
    data = recipe.to_dict()
    assert set(data) == set(shipped) and set(data["lift"]) == set(shipped["lift"])
    path = place / "stand_in.toml"
    path.write_text(_toml(data), "utf-8")
    return path


def _toml(table: dict, name: str = "") -> str:
    """TOML of nested tables; numbers, strings, booleans and lists are as in JSON."""
    values = [f"{k} = {json.dumps(v)}" for k, v in table.items() if not isinstance(v, dict)]
    head = [f"[{name}]"] if name and values else []
    inner = [
        _toml(v, f"{name}.{k}" if name else k) for k, v in table.items() if isinstance(v, dict)
    ]
    return "\n".join([*head, *values, *inner])


def test_the_recipe_that_ships():
    recipe = load_lift_recipe("nla_qwen25_gemma3")
    assert is_lift("nla_qwen25_gemma3") and not is_lift("quickstart")
    assert recipe.bridge.pairs == 100_000 and recipe.features.count == 45
    assert recipe.verbalizers.foreign.block == 41 and recipe.verbalizers.native.block == 20
    costs = {cost.stage: cost for cost in plan_lift(recipe)}
    assert list(costs) == ["models", "corpus", "bridge", "explain", "lift"]
    assert 150e9 < costs["models"].download < 250e9
    assert costs["bridge"].flops > 1e16 and costs["bridge"].stored > 1e9
    native, foreign = explanations(recipe)
    assert native == 45 * 5 and foreign == (90 + 300 + 45) * 5 + 26 * 45 * 4
    greedy = recipe.with_values({"lift.samples": 1, "washout.sweep": False})
    assert explanations(greedy) == (45, 435)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bridge.source": ""}, "Expected bridge.source in the recipe"),
        ({"bridge.target_site": SITE}, "foreign verbalizer to read the bridge's blocks.0"),
        ({"bridge.pears": 3}, "Expected a setting of the recipe"),
        ({"bridge.pairs": "many"}, "Expected bridge.pairs of type int"),
    ],
)
def test_wrong_recipes_are_named(values, message):
    with pytest.raises(InputError, match=message):
        load_lift_recipe("nla_qwen25_gemma3").with_values(values).check()


def test_passages_end_at_white_space_and_name_their_documents(tmp_path):
    text = " ".join(f"word{i}" for i in range(60))
    found = list(cut(text, 100))
    assert " ".join(found) == text[: len(" ".join(found))] and all(len(p) <= 100 for p in found)
    assert len(found) == 4 and list(cut("short", 100)) == []
    lines = [json.dumps({"text": text, "id": f"d{i}"}) for i in range(3)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    passages = read_passages(str(tmp_path / "t.jsonl"), 5, 100, 2)
    assert list(passages.documents) == ["d0", "d0", "d1", "d1", "d2"]
    with pytest.raises(InputError, match="at least 600 characters"):
        read_passages(str(tmp_path / "t.jsonl"), 5, 1000, 2)


def test_every_stage_runs_and_resumes(stand_in, tmp_path, monkeypatch):
    recipe: LiftRecipe = load_lift_recipe(stand_in)
    lines: list[str] = []
    page = run_lift(recipe, tmp_path, lines.append, Words())
    assert page == tmp_path / "lift.html" and "Washouts compared" in page.read_text()
    greedy, sampled = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("greedy", "lift")
    )
    assert greedy["washouts"] == {} and len(sampled["washouts"]) == 10
    assert {len(f["native"]) for f in sampled["features"]} == {2}
    assert set(sampled["figures"]["lift_rand"]) == {"mapped_gauss", "mapped_cov", "target_iso"}
    assert "shuffled_map" in sampled["figures"]["nulls"]
    assert sampled["recipe"]["bridge"]["pairs"] == 400
    bridge = Bridge.load(tmp_path / "bridge.safetensors")
    assert bridge.matrix.shape == (72, 64) and bridge.meta["target"]["site"] == SITE
    monkeypatch.setattr(
        "atlas_jax.models.load_model", lambda *args: pytest.fail("the bridge is fitted again")
    )
    monkeypatch.setattr(
        "atlas_jax.verbalize.verbalizer.decode", lambda *args: pytest.fail("explained again")
    )
    again: list[str] = []
    run_lift(recipe, tmp_path, again.append, Words())
    assert json.loads((tmp_path / "lift.json").read_text()) == sampled
    assert not any("passages" in line for line in again)
    with pytest.raises(InputError, match="another folder"):
        run_lift(recipe.with_values({"bridge.pairs": 80}), tmp_path, again.append, Words())


def test_the_command_line_plans_it(stand_in):
    result = CliRunner().invoke(
        app, ["run", str(stand_in), "--dry-run", "--rate", "1e12", "--json"]
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [row["stage"] for row in found["stages"]][:3] == ["models", "corpus", "bridge"]
    assert {one["state"] for one in found["access"]} == {"here"}
    shown = CliRunner().invoke(app, ["run", "nla_qwen25_gemma3", "--dry-run", "--rate", "4e14"])
    assert shown.exit_code == 0 and "100,000 pairs" in shown.output and "missing" in shown.output
    refused = CliRunner().invoke(app, ["run", "nla_qwen25_gemma3"])
    assert refused.exit_code == 2 and "Missing: source Qwen" in refused.output
    refused = CliRunner().invoke(app, ["run", str(stand_in), "--only", "fit"])
    assert refused.exit_code == 2 and "--only is for experiments" in refused.output
