"""Training a verbalizer on a tiny model, and the folder that the loader opens."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from atlas_jax.corpus import Texts
from atlas_jax.errors import InputError
from atlas_jax.models import load_model
from atlas_jax.verbalize import load_verbalizer
from atlas_jax.verbalize.training import Drawing, TrainingPlan, WordTable, train_verbalizer
from atlas_jax.verbalize.training.examples import record_examples, word_ends
from atlas_jax.verbalize.training.low_rank import adapt, merged
from atlas_jax.verbalize.training.saving import save_checkpoint
from atlas_jax.verbalize.training.words import words_of

from .tiny.world import ADJECTIVES, NOUNS

BASE = Path(__file__).parent / "tiny" / "qwen2"
SITE = "blocks.0.hook_resid_post"
DRAWING = Drawing(words=1, per_text=2, min_left=4, max_tokens=64, most=0.5)
PLAN = TrainingPlan(
    drawing=DRAWING, rank=16, steps=250, batch=16, rate=1e-2, stretch=(1.0, 1.0), longest=16
)


def word_texts(count: int = 24, per_document: int = 1) -> Texts:
    """Texts of words drawn at random: what sets one apart is the last of them."""
    rng, words = np.random.default_rng(0), [*ADJECTIVES, *NOUNS[:8]]
    texts = [" ".join(["and", *rng.choice(words, 8, replace=False)]) for _ in range(count)]
    return Texts(texts, documents=[f"d{i // per_document}" for i in range(count)])


def table_of(texts) -> WordTable:
    return WordTable.of(texts, DRAWING.least, DRAWING.most)


@pytest.fixture(scope="module")
def model():
    return load_model(str(BASE))


@pytest.fixture(scope="module")
def trained(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    lines: list[str] = []
    train_verbalizer(
        model, SITE, word_texts(), out, PLAN, base=BASE, checkpoint_steps=125,
        report=lines.append,
    )  # fmt: skip
    return out, lines


def test_words_that_set_a_text_apart():
    table = WordTable(100, {"ship": 5, "fleet": 5, "the": 90, "rare": 1, "sea": 20}, least=2)
    assert table.weight("ship") == pytest.approx(np.log(20))
    assert [table.weight(word) for word in ("the", "rare", "sea", "none")] == [0, 0, 0, 0]
    near = " ".join(["fleet", *["word"] * 24, "ship"])
    assert table.characteristic(near) == ["ship", "fleet"]  # the nearer one counts more
    assert table.characteristic(near, count=1) == ["ship"]
    twice = table.characteristic(["fleet", "fleet", "ship"])
    assert twice == ["fleet", "ship"]
    assert words_of("Two ships' 42 sails, naïve") == ["two", "ships", "sails", "naïve"]
    with pytest.raises(InputError, match="Expected words that at least 4 texts use"):
        WordTable.of(["one text"])


def test_states_are_read_where_words_end():
    ends = np.array([0, 2, 4, 5, 9])
    assert word_ends("ab cd efg", ends, 0).tolist() == [1, 3, 4]
    assert word_ends("ab cdefg.", np.array([4, 8, 9]), 1).tolist() == [1, 2]


def test_low_rank_changes_start_at_nothing_and_merge(model):
    graph, learned, frozen = adapt(model, 4, 0)
    tokens = np.arange(3, 15).reshape(2, 6)
    mask = np.ones((2, 6), bool)

    def logits(graph, *state):
        decoder = nnx.merge(graph, *state)
        x, _, _ = decoder(decoder.embed_tokens(jnp.asarray(tokens)), jnp.asarray(mask))
        return np.asarray(decoder.logits(x))

    expected = np.asarray(model(tokens, mask)[0])
    np.testing.assert_allclose(logits(graph, learned, frozen), expected, atol=1e-5)
    rng = np.random.default_rng(0)
    moved = jax.tree.map(
        lambda v: v + jnp.asarray(0.1 * rng.standard_normal(v.shape), v.dtype), learned
    )
    changed = logits(graph, moved, frozen)
    assert np.abs(changed - expected).max() > 0.1
    np.testing.assert_allclose(
        logits(model.graph, merged(graph, moved, frozen)), changed, atol=2e-4
    )
    shapes = {leaf.shape[1:] for leaf in jax.tree.leaves(learned)}
    assert (64, 4) in shapes and (4, 128) in shapes  # attention and MLP


def fused(kind: str, tokenizer, folder):
    """A checkpoint whose query, key and value lie in one tensor."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPTNeoXConfig

    tokens = AutoTokenizer.from_pretrained(tokenizer)
    tokens.save_pretrained(folder)
    size = {"vocab_size": len(tokens), "bos_token_id": 1, "eos_token_id": 2}
    if kind == "gpt2":
        config = GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **size)
    else:
        config = GPTNeoXConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=56, **size
        )
    AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gemma3", "gpt2", "gpt_neox"])
def test_a_saved_checkpoint_is_the_one_that_was_loaded(family, request, tiny_tokenizer, tmp_path):
    import shutil

    if family.startswith("tiny"):
        folder = request.getfixturevalue(family)
    else:
        folder = fused(family, tiny_tokenizer, tmp_path / "base")
    model, out = load_model(str(folder)), tmp_path / "out"
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns("*.safetensors"))
    save_checkpoint(out, model.arch, model.state)
    again = load_model(str(out))
    for a, b in zip(jax.tree.leaves(model.state), jax.tree.leaves(again.state), strict=True):
        np.testing.assert_array_equal(np.asarray(a, np.float16), np.asarray(b, np.float16))


def accuracy(model, verbalizer, out):
    """The share of training states of which it says the word it was shown, and what it says."""
    texts = word_texts()
    examples = record_examples(model, SITE, texts, out / "examples", DRAWING, table_of(texts))
    seen = examples.part(held=False)
    said = verbalizer.explain_all(seen.rows)
    assert len(set(seen.answers)) > 10
    return np.mean([e[0].text == a for e, a in zip(said, seen.answers, strict=True)]), said


def test_it_learns_what_it_is_shown(trained, model):
    out, lines = trained
    losses = json.loads((out / "training.json").read_text())["losses"]
    assert [entry["step"] for entry in losses] == [125, 250]
    assert losses[1]["loss"] < 0.5 * losses[0]["loss"] and losses[1]["held_out"] > 0
    assert len(lines) == 2 and "step 250/250" in lines[-1] and "min left" in lines[-1]
    verbalizer = load_verbalizer(out)
    assert verbalizer.description.site == SITE and verbalizer.description.layer == 0
    assert verbalizer.background is not None and verbalizer.adapter is None
    right, said = accuracy(model, verbalizer, out)
    assert right >= 0.85 and all(e[0].complete for e in said)


def test_in_the_place_of_an_embedding(model, tmp_path):
    plan = replace(PLAN, mode="replace_embedding")
    out = train_verbalizer(model, SITE, word_texts(), tmp_path, plan, base=BASE)
    verbalizer = load_verbalizer(out)
    assert verbalizer.description.mode == "replace_embedding"
    assert accuracy(model, verbalizer, out)[0] >= 0.95
    norms = np.linalg.norm(np.asarray(model.embed(np.array([verbalizer.ids]))[0]), axis=1)
    assert verbalizer.description.scale == pytest.approx(np.median(norms), rel=1e-3)


def test_a_stopped_training_goes_on_to_the_same_bits(model, tmp_path):
    def stop(line):
        if line.startswith("step 16"):
            raise KeyboardInterrupt

    plan = replace(PLAN, steps=24, batch=8, stretch=(0.7, 1.3))
    how = {"plan": plan, "base": BASE, "checkpoint_steps": 8}
    whole, part = tmp_path / "whole", tmp_path / "part"
    train_verbalizer(model, SITE, word_texts(), whole, **how)
    with pytest.raises(KeyboardInterrupt):
        train_verbalizer(model, SITE, word_texts(), part, report=stop, **how)
    assert (part / "training.safetensors").exists() and not (part / "model.safetensors").exists()
    lines: list[str] = []
    train_verbalizer(model, SITE, word_texts(), part, report=lines.append, **how)
    assert len(lines) == 1 and not (part / "training.safetensors").exists()
    for name in ("model.safetensors", "training.json", "nla_meta.yaml"):
        assert (whole / name).read_bytes() == (part / name).read_bytes()


def test_a_finished_one_stays_and_others_are_refused(trained, model, tmp_path):
    out, _ = trained
    before = (out / "model.safetensors").stat().st_mtime_ns
    train_verbalizer(model, SITE, word_texts(), out, PLAN, base=BASE)
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="trained by this plan"):
        train_verbalizer(model, SITE, word_texts(), out, replace(PLAN, rank=4), base=BASE)
    with pytest.raises(InputError, match="Expected examples of this model"):
        train_verbalizer(model, SITE, word_texts(12), out, PLAN, base=BASE)
    with pytest.raises(InputError, match="hook_resid_post"):
        train_verbalizer(model, "blocks.0.mlp.hook_post", word_texts(), tmp_path, PLAN)
    with pytest.raises(InputError, match="mode replace_residual or"):
        TrainingPlan(mode="prefix")
    with pytest.raises(InputError, match="more than 60 tokens"):
        plan = replace(PLAN, drawing=replace(DRAWING, min_left=60))
        train_verbalizer(model, SITE, word_texts(), tmp_path, plan, base=BASE)


def test_whole_documents_are_held_out(model, tmp_path):
    texts = word_texts(80, 4)
    table = table_of(texts)
    found = record_examples(model, SITE, texts, tmp_path, DRAWING, table)
    assert 0 < len(found.part(held=True)) < len(found) / 2
    again = record_examples(model, SITE, texts, tmp_path, DRAWING, table)
    np.testing.assert_array_equal(found.rows, again.rows)
    assert found.answers == again.answers and (found.held == again.held).all()
    path = sorted(tmp_path.glob("*.safetensors"))[0]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="is damaged"):
        record_examples(model, SITE, texts, tmp_path, DRAWING, table)
