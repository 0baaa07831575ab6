"""The paper's recipe with two tiny models in the place of its three large ones, run once."""

import json
from itertools import product

import pytest
from nltk.tokenize.punkt import PunktSentenceTokenizer

from atlas_jax.pipeline import load_recipe, run_experiment
from atlas_jax.pipeline.smoke import smoke_recipe

SITES = [f"blocks.{i}.mlp.hook_post" for i in range(5)]
FEATURES = 96


def sentences():
    """A few hundred that are all different."""
    who = ("cat", "child", "baker", "sailor", "function", "teacher", "river", "engine", "letter")
    does = (
        "follows",
        "returns to",
        "waits for",
        "answers",
        "carries",
        "forgets",
        "counts",
        "opens",
    )
    what = (
        "the old bridge",
        "every number",
        "a list of names",
        "some warm bread",
        "the last train",
    )
    return [
        f"{'The' if i % 3 else 'A small'} {a} {b} {c} {'in winter' if i % 2 else 'before noon'}."
        for i, (a, b, c) in enumerate(product(who, does, what))
    ]


class Log:
    """Keeps what a user would be told."""

    def __init__(self):
        self.lines, self.stages = [], []

    def stage(self, number, title):
        self.stages.append(title)

    def line(self, text):
        self.lines.append(text)

    def table(self, columns, rows):
        self.lines.append(" | ".join(columns))


def stand_in(queries):
    """Features of an atlas of 16,384, brought into one of 96."""
    return [{**q, "features": sorted({f % FEATURES for f in q["features"]})[:6]} for q in queries]


@pytest.fixture(scope="session")
def paper(tmp_path_factory):
    """The recipe with every section of the paper's, the folder of its run, and what was said."""
    folder = tmp_path_factory.mktemp("paper")
    tiny = smoke_recipe(folder / "models")
    other = folder / "models" / "second"
    other.symlink_to(folder / "models" / "subject")
    texts = folder / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences()))
    recipe = load_recipe("paper_llama31_gemma16k")
    recipe = recipe.with_values(
        {
            "subject.model": tiny.subject.model,
            "subject.also": [str(other)],
            "subject.sites": SITES,
            "subject.dtype": "float32",
            "atlas.reference": tiny.atlas.reference,
            "atlas.dtype": "float32",
            "corpus.source": str(texts),
            "corpus.sequences": 200,
            "capture.batch_tokens": 1024,
            "capture.max_tokens": 48,
            "evaluate.chosen": sorted({f % FEATURES for f in recipe.evaluate.chosen})[:12],
            "retrieval.features": 12,
            "retrieval.samples": 5,
            "identify.queries": stand_in(recipe.identify.queries),
            "steer.max_new_tokens": 3,
            "evaluate_steering.queries": stand_in(recipe.evaluate_steering.queries),
        }
    )
    log = Log()
    run_experiment(recipe, folder / "run", log, PunktSentenceTokenizer())
    return recipe, folder / "run", log


@pytest.fixture
def log():
    return Log()


@pytest.fixture(scope="session")
def numbers(paper):
    """The result of the first subject."""
    return json.loads((paper[1] / "subject" / "report.json").read_text())
