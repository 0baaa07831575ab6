"""Maps on the hub, with a hub that is a folder; no network, and no token in sight."""

import logging
import shutil
from types import SimpleNamespace

import httpx2 as httpx
import huggingface_hub
import numpy as np
import pytest
import yaml
from huggingface_hub.errors import HfHubHTTPError

from atlas_jax.errors import InputError
from atlas_jax.hub import card
from atlas_jax.translate import Translation
from atlas_jax.verbalize.bridge import Bridge

TOKEN = "hf_a_secret_of_the_test"
META = {
    "subject": {"model": "google/gemma-3-270m", "site": "blocks.8.mlp.hook_post"},
    "atlas": {"model": "smollm2-135m-12-4k", "site": "blocks.12.hook_resid_post"},
    "n": 90,
    "options": {"rank": 5, "errors": list(range(50))},
    "labels": {str(i): "x" for i in range(60)},
}
MATRIX = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Repositories as folders, behind the three calls that are used."""
    asked = SimpleNamespace(folder=tmp_path / "hub", tokens=[], private=None)

    class FakeApi:
        def __init__(self, token=None):
            asked.tokens.append(token)

        def create_repo(self, repo_id, private=None, exist_ok=False):
            assert exist_ok
            asked.private = private
            (asked.folder / repo_id).mkdir(parents=True, exist_ok=True)

        def upload_folder(self, repo_id, folder_path, revision, commit_message):
            shutil.copytree(folder_path, asked.folder / repo_id, dirs_exist_ok=True)
            return SimpleNamespace(commit_url=f"https://hub.example/{repo_id}/commit/1")

    def download(repo_id, filename, revision=None, token=None):
        asked.tokens.append(token)
        return str(asked.folder / repo_id / filename)

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_a_translation_there_and_back(hub, capsys, caplog):
    caplog.set_level(logging.DEBUG)
    made = Translation("procrustes", MATRIX, META)
    assert made.push_to_hub("me/map", token=TOKEN, private=True).endswith("me/map/commit/1")
    found = Translation.from_hub("me/map", token=TOKEN)
    np.testing.assert_array_equal(found.matrix, MATRIX)
    assert found.method == "procrustes" and found.meta == META
    assert hub.tokens == [TOKEN, TOKEN] and hub.private is True
    text = (hub.folder / "me" / "map" / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["base_model"] == ["google/gemma-3-270m"]
    assert front["library_name"] == "atlas-jax"
    for part in ('aj.Translation.from_hub("me/map")', "5 subject features to 7", "50 values"):
        assert part in text
    out = capsys.readouterr()
    assert TOKEN not in text + out.out + out.err + caplog.text


def test_a_bridge_there_and_back(hub):
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((3, 4)).astype(np.float32)
    bridge = Bridge(
        matrix,
        *(rng.standard_normal(width) for width in (3, 4, 3, 4, 3)),
        eigenvalues=np.ones(4),
        eigenvectors=np.eye(4, dtype=np.float32),
        halves=(matrix, 2 * matrix),
        meta={"source": {"model": "a/b", "site": "blocks.1.hook_resid_post"}, "n": 12},
    )
    bridge.push_to_hub("me/bridge")
    found = Bridge.from_hub("me/bridge")
    np.testing.assert_array_equal(found.matrix, matrix)
    assert found.meta == bridge.meta
    assert "- a/b" in (hub.folder / "me" / "bridge" / "README.md").read_text()


def test_a_card_without_a_public_model_names_no_base():
    text = card("t", "about", "load", "f", {"subject": {"model": "/home/me/model"}})
    assert "base_model" not in yaml.safe_load(text.split("---")[1])


def failure(status):
    request = httpx.Request("GET", "https://hub.example")
    return HfHubHTTPError("no", response=httpx.Response(status, request=request))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (failure(401), "HTTP 401.*log in"),
        (failure(404), "HTTP 404.*check the name"),
        (ConnectionError(f"refused for {TOKEN}\nmore"), r"refused for \*\*\*"),
    ],
)
def test_what_the_hub_refuses_is_one_line_without_the_token(hub, monkeypatch, error, message):
    def refuse(*args, **how):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    for call in (
        lambda: Translation.from_hub("me/map", token=TOKEN),
        lambda: Translation("covariance", MATRIX, META).push_to_hub("me/map", token=TOKEN),
    ):
        with pytest.raises(InputError, match=message) as caught:
            call()
        assert TOKEN not in str(caught.value) and "\n" not in str(caught.value)


def test_the_name_of_a_repository_is_checked_by_the_hub_itself():
    with pytest.raises(InputError, match="like owner/name"):
        Translation.from_hub("not a name/at all/of one")
