"""`atlas train` and `atlas label` on a tiny model, and their errors in one line."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from atlas_jax.cli.app import app
from atlas_jax.cli.atlas import _numbers
from atlas_jax.errors import InputError
from atlas_jax.files import unsealed

RUNNER = CliRunner()


def invoke(*arguments):
    return RUNNER.invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def texts(tmp_path_factory, sentences):
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n".join(f"{a} {b}" for a in sentences for b in sentences))
    return path


@pytest.fixture(scope="module")
def common(tiny_llama, texts):
    sizes = ["--tokens", 1200, "--length", 16, "--heldout", 8, "--features", 24, "--k", 3]
    more = ["--batch", 64, "--epochs", 1, "--site", "blocks.1.hook_resid_post"]
    return ["--model", tiny_llama, "--source", texts, *sizes, *more]


@pytest.mark.parametrize("live", [False, True])
def test_train_writes_an_atlas_with_its_card(tmp_path, common, live):
    where = ["--live"] if live else []
    result = invoke("atlas", "train", tmp_path, *common, *where, "--json")
    assert result.exit_code == 0, result.output
    card = json.loads(result.stdout)
    assert unsealed(json.loads((tmp_path / "card.json").read_text())) == card
    assert card["l0"] > 0 and card["ce_clean"] > 0 and card["recipe"]["k"] == 3
    assert sum(card["density"]["features"]) == 24
    assert (tmp_path / "recordings" / "acts.npy").exists() != live
    again = invoke("atlas", "train", tmp_path, *common, *where, "--json")
    assert json.loads(again.stdout)["fve"] == pytest.approx(card["fve"], abs=1e-3)
    other = invoke("atlas", "train", tmp_path, *common, *where, "--architecture", "top_k")
    assert other.exit_code == 2 and "architecture='top_k'" in other.stderr
    assert other.stderr.count("\n") == 1


@pytest.fixture
def words(monkeypatch):
    """An embedder in the place of the one that has to be fetched."""

    class Words:
        width, fingerprint = 26, "letters"

        def embed(self, texts):
            rows = [[text.lower().count(chr(97 + i)) + 0.1 for i in range(26)] for text in texts]
            found = np.array(rows, np.float32).reshape(-1, 26)
            return found / np.linalg.norm(found, axis=1, keepdims=True)

    monkeypatch.setattr("atlas_jax.atlas.SentenceEmbedder", Words)


def test_label_prints_scores_and_writes_them(tmp_path, common, words, texts, tiny_llama):
    assert invoke("atlas", "train", tmp_path, *common, "--live").exit_code == 0
    config = json.loads((tmp_path / "cfg.json").read_text())
    config["metadata"]["model_name"] = str(tiny_llama)
    del config["metadata"]["sha256"]
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    missing = invoke("atlas", "label", tmp_path)
    assert missing.exit_code == 2 and "recorded activations" in missing.stderr
    given = ["--source", texts, "--tokens", 1200, "--length", 8]
    given += ["--features", "0-5,9"]
    result = invoke("atlas", "label", tmp_path, *given, "--by", "statistics", "--by", "vocabulary")
    assert result.exit_code == 0, result.output
    assert "mean AUROC" in result.stdout
    rows = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert {row["feature"] for row in rows} == {0, 1, 2, 3, 4, 5, 9}
    assert any("score" in row for row in rows)
    for arguments, message in (
        (["--by", "magic"], "statistics, vocabulary"),
        (["--by", "endpoint"], "an endpoint like"),
        (["--by", "model"], "--ask"),
        (["--by", "endpoint", "--by", "model"], "at a time"),
        (["--features", "all"], "features like '0-99,512'"),
    ):
        wrong = invoke("atlas", "label", tmp_path, *given[:6], *arguments)
        assert wrong.exit_code == 2 and message in wrong.stderr, wrong.output
        assert wrong.stderr.count("\n") == 1


def test_numbers():
    assert _numbers("0-3, 7") == [0, 1, 2, 3, 7] and _numbers("") is None
    with pytest.raises(InputError):
        _numbers("3-x")
