"""The three commands, on tiny models."""

import json
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from atlas_jax.cli.bridge import bridge
from atlas_jax.cli.lift import lift
from atlas_jax.cli.verbalize import verbalize
from atlas_jax.verbalize import Background, Bridge, Ridge, solve_bridge
from atlas_jax.verbalize.bridge_moments import PairSums

from .tiny.world import make_world

TINY = Path(__file__).parent / "tiny"
WORLD = make_world()


@pytest.fixture
def run():
    app = typer.Typer()
    for command in (bridge, verbalize, lift):
        app.command()(command)

    def call(*words):
        return CliRunner().invoke(app, [str(word) for word in words])

    return call


@pytest.fixture
def files(tmp_path):
    """A bridge, a background of its target, and directions of its source."""
    x, y = WORLD.activations(1500, 3)
    sums = PairSums(5, 0)
    sums.add(x, y, np.random.default_rng(0).integers(10, 20, len(x)))
    target = {"model": "gemma3", "site": "blocks.6.hook_resid_post", "width": 72}
    made = solve_bridge(sums.moments({"source": {"model": "s"}, "target": target}), Ridge())
    made.save(tmp_path / "bridge.safetensors")
    Background(y[:300].astype(np.float32), {}).save(tmp_path / "background.safetensors")
    np.save(tmp_path / "rows.npy", WORLD.codes("source", False)[:4])
    return tmp_path


def test_bridge_writes_a_bridge_and_a_background(run, tiny_llama, tiny_gemma3, tmp_path):
    words = "the cat sat on a mat while rivers ran past stone houses".split()
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(words, 16)) for _ in range(80)]
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    site = "blocks.1.hook_resid_post"
    how = ["--source-site", site, "--target-site", site, "--corpus", tmp_path / "texts.txt"]
    how += ["--min-left", 4, "--out", tmp_path / "b.st", "--background", tmp_path / "h.st"]
    result = run("bridge", tiny_llama, tiny_gemma3, *how, "--json")
    assert result.exit_code == 0, result.output
    meta = json.loads(result.stdout)
    assert Bridge.load(tmp_path / "b.st").meta == meta and meta["n"] > 100
    assert len(Background.load(tmp_path / "h.st").rows) == meta["fve"]["held_out_pairs"]
    refused = run("bridge", tiny_llama, tiny_gemma3, *how[:4])
    assert refused.exit_code == 2 and "Expected --corpus" in refused.output


def test_verbalize_explains_over_a_bridge(run, files):
    how = ["--bridge", files / "bridge.safetensors", "--directions", files / "rows.npy"]
    how += ["--background", files / "background.safetensors"]
    result = run("verbalize", TINY / "gemma3", *how, "--json")
    assert result.exit_code == 0, result.output
    said = [entry["explanations"][0] for entry in json.loads(result.stdout)]
    assert said == WORLD.names(False)[:4]
    assert all(entry["reliability"] > 0.5 for entry in json.loads(result.stdout))
    shown = run("verbalize", TINY / "gemma3", *how)
    assert said[0] in shown.stdout and "reliability" in shown.stdout
    for more, message in (
        (["--angle", "wide"], "--angle auto, bare or degrees"),
        (["--atlas", "x"], "either --directions"),
    ):
        refused = run("verbalize", TINY / "gemma3", *how, *more)
        assert refused.exit_code == 2 and message in refused.output
    refused = run("verbalize", TINY / "qwen2", *how)
    assert refused.exit_code == 2 and "Expected a bridge to" in refused.output


def test_lift_writes_figures_and_a_page(run, files, monkeypatch):
    class Words:
        def embed(self, texts):
            rng = {t: np.random.default_rng(crc32(t.encode())) for t in texts}
            rows = np.array([rng[t].standard_normal(16) for t in texts], np.float32)
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    monkeypatch.setattr("atlas_jax.atlas.embed.SentenceEmbedder", Words)
    x = WORLD.activations(300, 3)[0]
    Background(x.astype(np.float32), {}).save(files / "native.safetensors")
    how = ["--foreign", TINY / "gemma3", "--native", TINY / "qwen2", "--random", 4]
    how += ["--background", files / "background.safetensors", "--out", files / "lift"]
    how += ["--native-background", files / "native.safetensors"]
    how += ["--directions", files / "rows.npy"]
    result = run("lift", files / "bridge.safetensors", *how, "--json")
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert figures["lift_spec"]["mean"] > 0 and figures["top1"] == 1
    assert json.loads((files / "lift" / "lift.json").read_text())["figures"] == figures
    assert "feature by feature" in (files / "lift" / "lift.html").read_text().lower()
    refused = run("lift", files / "bridge.safetensors", *how[:2], *how[6:8], *how[-2:])
    assert refused.exit_code == 2 and "Expected --native" in refused.output
