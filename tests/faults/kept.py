"""What is kept on disk, by kind: how a small one is written, and what its public reader gives."""

from __future__ import annotations

import hashlib
import runpy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from nltk.tokenize.punkt import PunktSentenceTokenizer

from atlas_jax.activations import ActivationStore, capture
from atlas_jax.atlas import SAE, Labels, load_saelens, save_saelens
from atlas_jax.atlas.recording import collect, open_activations
from atlas_jax.atlas.training.recipe import Recipe as Training
from atlas_jax.atlas.training.state import State, init, load_state, save_state
from atlas_jax.corpus import Corpus, Document, Texts, spill
from atlas_jax.errors import InputError
from atlas_jax.journal import Journal
from atlas_jax.pipeline.recipe import Recipe
from atlas_jax.pipeline.run import Run
from atlas_jax.pipeline.run_folder import RunFolder
from atlas_jax.query import Query
from atlas_jax.translate import MomentsFolder, Translation, fit
from atlas_jax.translate.stored import StoredTranslation
from atlas_jax.verbalize.bridge import Bridge
from atlas_jax.verbalize.bridge_moments import BridgeMoments, Sums

TableSource = runpy.run_path(str(Path(__file__).parents[1] / "activations" / "conftest.py"))[
    "TableSource"
]
RNG = np.random.default_rng(7)
TEXTS = Texts(
    [" ".join(f"w{i}" for i in RNG.integers(0, 99, n)) for n in RNG.integers(3, 20, 90)],
    [f"source {i % 3}" for i in range(90)],
    [f"document {i // 4}" for i in range(90)],
)
ROWS = {"a": RNG.standard_normal((64, 6)).astype("f4"), "b": RNG.standard_normal((64, 4))}
ATLAS = np.maximum(RNG.standard_normal((64, 10)), 0).astype(np.float32)
LINES = [{"id": f"row {i}", "text": f"é {i}", "value": i / 7} for i in range(12)]
REPORT = {"auroc": [0.5, 0.75], "sites": {"a": 1.5}}


def f32(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@dataclass(frozen=True)
class Kept:
    """A kind: `write` fills a folder, `read` gives all that the public reader finds there."""

    write: Callable[[Path], Any]
    read: Callable[[Path], Any]


def fingerprint(value: Any) -> str:
    """Of arrays, texts and numbers, nested as they may be."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if hasattr(value, "dtype"):
            array = np.asarray(value)
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                digest.update(str(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            digest.update(b"[")
            for entry in value:
                add(entry)
        else:
            digest.update(repr(value).encode())

    add(value)
    return digest.hexdigest()


def translation() -> Translation:
    meta = {"atlas": {"model": "m", "fingerprint": "a.b"}, "n": 64, "options": {"rank": 4}}
    return Translation("procrustes", f32(40, 24), meta)


def read_stored(folder: Path) -> Any:
    stored = StoredTranslation(folder / "t.safetensors")
    columns = [stored.column(i) for i in range(0, stored.shape[1], 3)]
    return [stored.method, stored.meta, columns, stored.row(3), stored.row_norms]


def bridge() -> Bridge:
    p, q, r = 6, 5, 4
    parts = [f32(q, p), *(f32(n).astype(float) for n in (q, p, q, p, q, r))]
    return Bridge(*parts, f32(p, r), (f32(q, p), f32(q, p)), {"n": 9, "lambda": 0.5})  # type: ignore[arg-type]


def bridge_moments() -> BridgeMoments:
    def some(*shape: int) -> np.ndarray:
        return f32(*shape).astype(float)

    parts = [Sums(7 + i, some(3), some(2), some(3, 3), some(3, 2), some(2)) for i in range(4)]
    return BridgeMoments(some(3), some(2), parts, f32(5, 3), f32(5, 2), {"runs": ["r"]})


def sae() -> SAE:
    arrays = [jnp.asarray(f32(*s)) for s in ((6, 12), (12,), (12, 6), (6,))]
    return SAE(*arrays, jnp.abs(jnp.asarray(f32(12))), "jumprelu", None, False)


def read_sae(folder: Path) -> Any:
    loaded = load_saelens(folder)
    weights = [np.asarray(getattr(loaded.sae, n)) for n in ("W_enc", "b_enc", "W_dec", "b_dec")]
    kind = [loaded.sae.architecture, loaded.sae.apply_b_dec_to_input, loaded.sae.normalize]
    theta = np.asarray(loaded.sae.threshold)
    return [*weights, theta, kind, loaded.site, loaded.model_name, loaded.max_norm]


TRAINING = Training(n_features=8, k=2, batch=16)


@cache
def like() -> State:
    """The start of a training; made when it is asked for, as it starts JAX."""
    return init(4, TRAINING, 10, f32(16, 4))  # type: ignore[arg-type]


def read_checkpoint(folder: Path) -> Any:
    import jax

    if not (folder / "training.safetensors").exists():
        raise InputError("Training begins anew, to the same bits.")
    state, losses = load_state(like(), folder / "training.safetensors", "plan")
    return [[np.asarray(leaf) for leaf in jax.tree.leaves(state)], losses]


class Rows:
    """The atlas's rows, with the names that tell one run from another."""

    shape = ATLAS.shape
    meta: ClassVar = {"texts": "t", "model": "m", "fingerprint": "f", "pool": "max"}

    def __getitem__(self, rows: Any) -> np.ndarray:
        return ATLAS[rows]


def side() -> Any:
    return Rows()


def write_moments(folder: Path) -> None:
    fit(ROWS, side(), ("covariance", "semantic_lens"), moments=folder, max_memory="700B")


def read_moments(folder: Path) -> Any:
    moments = MomentsFolder(folder)
    header, whole = moments.header(), moments.whole()
    sites = {n: [whole.sites[n].cross, vars(whole.sites[n])] for n in whole.sites}
    for entry in sites.values():
        top = entry[1].get("top")
        entry[1] = {**entry[1], "top": None if top is None else list(top)}
    return [header, whole.n, vars(whole.atlas), sites]


def write_store(pool: str) -> Callable[[Path], Any]:
    def write(folder: Path) -> None:
        rows = 32 if pool == "max" else 300
        store = capture(TableSource(), TEXTS, out=folder / "s", pool=pool, rows_per_part=rows)
        if pool == "max":
            store.top_samples("blocks.0.a", 3)

    return write


def read_arrays(folder: Path) -> Any:
    store = ActivationStore.open(folder / "s")
    return {site: store[site][:] for site in store.sites}


def read_store(folder: Path) -> Any:
    store = ActivationStore.open(folder / "s")
    found: dict[str, Any] = read_arrays(folder)
    if store.pools(store.sites[0]) == ("tokens",):
        found |= {"ids": store[store.sites[0]].ids, "offsets": store[store.sites[0]].offsets}  # type: ignore[attr-defined]
    else:
        top = store.top_samples("blocks.0.a", 3)
        found |= {"top": [top.values, top.rows]}
    return [store.meta, found]


def read_corpus(folder: Path) -> Any:
    corpus = Corpus.load(folder)
    halves = [half.table.to_pydict() for half in (corpus.train, corpus.eval)]
    return [halves, corpus.counts, corpus.meta, corpus.hash]


def write_spilled(folder: Path) -> None:
    texts = [Document("source", f"{i}", f"One {i} two. Three {i} four.") for i in range(9)]
    spill.write_spill(texts, folder / "a.arrow", PunktSentenceTokenizer(), 1)


def read_spilled(folder: Path) -> Any:
    path = folder / "a.arrow"
    if spill.read_tally(path) is None:
        raise InputError("Its documents are split again.")
    return [spill.read_part([path], part).to_pydict() for part in range(spill.PARTS)]


class Reader:
    """A model that reads numbers off a table."""

    fingerprint = "reader"
    tokenizer = SimpleNamespace(
        bos_id=1, encode_batch=lambda texts: [[1, *map(ord, text)] for text in texts]
    )

    def width(self, site: str) -> int:
        return 5

    def read(self, tokens: np.ndarray, mask: np.ndarray, sites: tuple[str, ...]) -> Any:
        return {sites[0]: f32(128, 5)[tokens % 128]}


def write_recording(folder: Path) -> Any:
    texts = [f"text {i} " * 4 for i in range(60)]
    return collect(Reader(), texts, "site", folder, 900, length=8, batch=1)  # type: ignore[arg-type]


def read_recording(folder: Path) -> Any:
    found = open_activations(folder)
    return [np.array(found.acts), found.tokens]


def write_journal(folder: Path) -> Any:
    """Adds what is missing, as every command that keeps a journal does."""
    with Journal(folder / "rows.jsonl") as journal:
        for line in LINES:
            if line["id"] not in journal:
                journal.add([line])
        return [journal[line["id"]] for line in LINES]


def write_run(folder: Path) -> Any:
    """A stage of a run: done, or taken from the folder."""
    run = Run(folder, Recipe(name="r"), lambda _: None)

    def produce() -> Any:
        run.write_json("reports/quality.json", REPORT)
        return REPORT

    kept = run.stage("quality", [1], produce, lambda: run.read_json("reports/quality.json"))
    return [kept, RunFolder(folder).recipe]


def read_reports(folder: Path) -> Any:
    recipe = RunFolder(folder).recipe
    run = Run(folder, Recipe(name="r"), lambda _: None)
    return [recipe, run.read_json("reports/quality.json")]


def query() -> Query:
    vector = f32(9)
    return Query(vector, "rivers", (1, 4), (0.5, 1.5), ("water", "stones"), "atlas")


KEPT: dict[str, Kept] = {
    "translation": Kept(
        lambda f: translation().save(f / "t.safetensors"),
        lambda f: (lambda t: [t.method, t.matrix, t.meta, t.row_norms])(
            Translation.load(f / "t.safetensors")
        ),
    ),
    "translation on disk": Kept(lambda f: translation().save(f / "t.safetensors"), read_stored),
    "bridge": Kept(
        lambda f: bridge().save(f / "b.safetensors"),
        lambda f: vars(Bridge.load(f / "b.safetensors")),
    ),
    "bridge moments": Kept(
        lambda f: bridge_moments().save(f / "m.safetensors"),
        lambda f: asdict(BridgeMoments.load(f / "m.safetensors")),
    ),
    "moments": Kept(write_moments, read_moments),
    "autoencoder": Kept(
        lambda f: save_saelens(sae(), f, site="s", model_name="m", max_norm=7.5), read_sae
    ),
    "checkpoint": Kept(
        lambda f: save_state(like(), [{"loss": 1.0}], f / "training.safetensors", "plan"),
        read_checkpoint,
    ),
    "store": Kept(write_store("max"), read_store),
    "store of tokens": Kept(write_store("tokens"), read_store),
    "corpus": Kept(
        lambda f: Corpus(TEXTS[:60], TEXTS[60:], {"all": {"x": 90}}, {"seed": 1}).save(f),
        read_corpus,
    ),
    "spilled sentences": Kept(write_spilled, read_spilled),
    "labels": Kept(
        lambda f: Labels.of([(i, f"kind {i}") for i in range(20)]).save(f / "labels.jsonl"),
        lambda f: list(Labels.load(f / "labels.jsonl").rows()),
    ),
    "recording": Kept(write_recording, read_recording),
    "journal": Kept(write_journal, write_journal),
    "run": Kept(write_run, write_run),
    "reports": Kept(write_run, read_reports),
    "query": Kept(lambda f: query().save(f / "q.json"), lambda f: vars(Query.load(f / "q.json"))),
}
