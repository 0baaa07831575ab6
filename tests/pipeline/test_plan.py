"""What a recipe takes, beside arithmetic by hand, and what it must be able to read."""

import json

import pytest
from typer.testing import CliRunner

from atlas_jax.cli.app import app
from atlas_jax.errors import InputError
from atlas_jax.pipeline import load_recipe
from atlas_jax.pipeline.access import HERE, MISSING, check_access, require_access
from atlas_jax.pipeline.plan import plan, shape_of


def costs_of(name, **changes):
    recipe = load_recipe(name).with_values(changes)
    return {cost.stage: cost for cost in plan(recipe)}


def test_the_papers_capture_is_the_arithmetic():
    capture = costs_of("paper_llama31_gemma16k")["capture"]
    llama = 31 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    gemma = 21 * (2 * 2304 * 2048 + 2 * 2304 * 1024 + 3 * 2304 * 9216) + 2304 * 16384
    assert capture.flops == pytest.approx(2 * 30e6 * (3 * llama + gemma), rel=1e-9)
    assert capture.stored == 1e6 * 2 * (3 * 5 * 14336 + 16384)
    assert capture.hours(4e14) == pytest.approx(capture.flops / 4e14 / 3600)


def test_every_stage_of_the_paper_is_there():
    costs = costs_of("paper_llama31_gemma16k")
    assert list(costs) == [
        *("models", "corpus", "capture", "fit", "evaluate", "retrieval", "identify", "steer"),
        "evaluate steering",
    ]
    assert costs["evaluate steering"].calls == 10 * 16 * 7 * 6 * 6 * 3 * 3
    assert costs["fit"].stored == 3 * 4 * 5 * 14336 * 16384 * 5
    wide = costs_of("paper_llama31_gemma65k")
    assert "65,536" in wide["fit"].what and "steer" not in wide


def test_shapes_come_from_the_models_own_config(tiny_llama):
    shape = shape_of(str(tiny_llama))
    assert (shape.layers, shape.d, shape.mlp, shape.kv_heads) == (3, 32, 56, 2)
    with pytest.raises(InputError, match="not known before"):
        shape_of("someone/some-model")
    with pytest.raises(InputError, match="blocks.31 of meta-llama"):
        costs_of("paper_llama31_gemma16k", **{"subject.sites": ["blocks.40.mlp.hook_post"]})
    with pytest.raises(InputError, match="above 0"):
        costs_of("quickstart", **{"corpus.sequences": 0})


def test_everything_missing_is_named_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    recipe = load_recipe("paper_llama31_gemma16k").with_values(
        {"retrieval.sets": str(tmp_path / "sets.jsonl")}
    )
    found = check_access(recipe)
    names = [access.name for access in found]
    assert len(names) == 7 and "google/gemma-2-2b" in names
    assert all(access.state == MISSING and access.reason for access in found)
    with pytest.raises(InputError) as caught:
        require_access(recipe)
    assert all(name in str(caught.value) for name in names) and "\n" not in str(caught.value)


def test_folders_are_here(paper):
    recipe, _, _ = paper
    states = [access.state for access in check_access(recipe)]
    assert states[:3] == [HERE] * 3 and MISSING not in states
    require_access(recipe)


@pytest.mark.parametrize(
    ("error", "reason"),
    [("gated", "accept its terms"), ("absent", "no such repository"), ("network", "cannot be")],
)
def test_the_hubs_refusals_are_told_apart(monkeypatch, error, reason):
    import huggingface_hub
    from huggingface_hub import errors

    class Response:
        headers, request, status_code = {}, None, 403

    def refuse(self, repository, repo_type=None):
        if error == "network":
            raise ConnectionError
        kinds = {"gated": errors.GatedRepoError, "absent": errors.RepositoryNotFoundError}
        raise kinds[error]("no", response=Response())  # type: ignore[arg-type]

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.HfApi, "auth_check", refuse)
    recipe = load_recipe("paper_llama31_gemma65k")
    assert reason in check_access(recipe)[0].reason


def test_the_command_prints_and_does_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = tmp_path / "run"
    base = ["run", "paper_llama31_gemma16k", "--out", str(out)]
    shown = CliRunner().invoke(app, [*base, "--dry-run", "--rate", "4e14"])
    assert shown.exit_code == 0, shown.output
    assert "6 of 6 missing" in shown.output and "4e+14 FLOP/s" in shown.output
    printed = CliRunner().invoke(app, [*base, "--dry-run", "--json"])
    result = json.loads(printed.output)
    assert result["rate"] > 0 and len(result["stages"]) == 9 and len(result["access"]) == 6
    refused = CliRunner().invoke(app, base)
    assert refused.exit_code == 2 and "google/gemma-2-2b" in refused.stderr
    assert not out.exists()
