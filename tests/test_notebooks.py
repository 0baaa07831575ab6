"""The notebooks: each runs from end to end on tiny models; what is committed ran, on no machine."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from atlas_jax.pipeline import run_experiment
from atlas_jax.pipeline.smoke import smoke_recipe

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TINY = {
    "01_quickstart": {"FEATURES": 10, "QUERY": "rivers", "PROMPT": "The function returns"},
    "02_capture_and_fit_at_scale": {"TEXTS": 160},
    "03_search_and_steer": {"QUERY": "rivers", "OTHER": "kitchens", "NEW_TOKENS": 6, "RUN": "run"},
    "04_bridge_and_verbalize": {"PASSAGES": 40, "CHARACTERS": 400},
}


class Silent:
    """Where a run tells nobody what it does."""

    def stage(self, *_):
        pass

    line = table = stage


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder to run in, with a finished run, and what stands in for the parameters."""
    folder = tmp_path_factory.mktemp("notebooks")
    recipe = smoke_recipe(folder / "models")
    less = {"fit.methods": ["procrustes"], "evaluate.curve": False, "retrieval.features": 0}
    less |= {"identify.queries": [], "steer.strengths": []}
    for stage in ("models", "corpus", "capture", "fit"):
        run_experiment(recipe.with_values(less), folder / "run", Silent(), only=stage)
    return folder, {
        "SUBJECT": recipe.subject.model,
        "SITE": "blocks.2.mlp.hook_post",
        "ATLAS": recipe.atlas.reference,
        "SOURCE": recipe.corpus.source,
        "TEXTS": recipe.corpus.sequences,
        "FOLDER": "stores",
    }


@pytest.mark.download  # queries in words take the sentence embedder
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_runs(path, tiny, monkeypatch):
    folder, values = tiny
    if path.stem.startswith("04"):
        values = {
            **{"WORLD": str(ROOT / "tests/verbalize/tiny"), "TEXTS": values["SOURCE"]},
            **{"SOURCE": str(folder / "models/atlas-model"), "TARGET": values["SUBJECT"]},
            **{"SOURCE_SITE": "blocks.1.hook_resid_post", "ATLAS": values["ATLAS"]},
            **{"TARGET_SITE": "blocks.2.hook_resid_post"},
        }
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # compiling is most of the time
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, 4)
    (place,) = [
        i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", ())
    ]
    changed = {**values, **TINY[path.stem]}
    lines = [f"{name} = {value!r}" for name, value in changed.items()]
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell("\n".join(lines)))
    NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_what_is_committed_ran_in_order_and_names_no_machine(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    said = "".join(o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in outputs)
    assert not re.search(r"/(?:home|root|tmp|work|Users|usr|opt|var)/|[A-Z]:\\", said)
    assert path.stat().st_size < 200_000
    assert len([cell for cell in notebook.cells if cell.cell_type == "markdown"]) >= 6
