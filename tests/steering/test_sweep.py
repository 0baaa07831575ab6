"""Sweeps: what generation gives, streamed, resumed, in any batches."""

import json

import numpy as np
import pytest

from atlas_jax.errors import InputError
from atlas_jax.files import unsealed
from atlas_jax.models import generate, load_model
from atlas_jax.steering import Plan, Sampling, random_scores, steer, sweep, write_steered

SITE = "blocks.1.mlp.hook_post"
PROMPTS = ["The grey cat", "Two", "London lies on the"]
SHORT = Sampling(max_new_tokens=5)


@pytest.fixture(scope="module")
def model(tiny_llama):
    return load_model(tiny_llama)


@pytest.fixture(scope="module")
def plans(model):
    s = random_scores(model.width(SITE), 1.0)
    low = "blocks.0.hook_resid_post"
    other = random_scores(model.width(low), 1.0, 1)
    return [
        Plan({"strength": 0.0}),
        Plan({"strength": 6.0}, [steer(SITE, s, 6.0)]),
        Plan({"strength": -6.0}, [steer(SITE, s, -6.0), steer(low, other, 9.0, "add")]),
        Plan({"strength": 1.0}, [steer(SITE, s, 1.0, "ablate")]),
    ]


def texts(rows):
    return [[row["text"] for row in plan] for plan in rows]


def test_each_plan_writes_what_generate_writes(model, plans, tmp_path):
    out = tmp_path / "texts.jsonl"
    rows = write_steered(model, plans, PROMPTS, out, SHORT, batch_size=5)
    for plan, mine in zip(plans, rows, strict=True):
        expected = generate(model, PROMPTS, plan.edits, 5)
        assert [row["text"] for row in mine] == expected
        assert [row["prompt"] for row in mine] == PROMPTS
        assert all(row["strength"] == plan.label["strength"] for row in mine)
    assert texts(rows)[0] != texts(rows)[1] != texts(rows)[2]
    written = [unsealed(json.loads(line)) for line in out.read_text().splitlines()]
    assert {row["id"]: row for row in written} == {r["id"]: r for plan in rows for r in plan}
    assert len(written) == len(plans) * len(PROMPTS)


def test_strength_0_is_the_unsteered_text_and_written_once(model, plans, tmp_path):
    s = np.ones(model.width(SITE), np.float32)
    same = [plans[0], *(Plan({"n": i}, [steer(SITE, s, 0.0)]) for i in range(3))]
    rows = write_steered(model, same, PROMPTS, tmp_path / "t.jsonl", SHORT)
    assert texts(rows)[1:] == [texts(rows)[0]] * 3 and rows[2][0]["n"] == 1
    assert len((tmp_path / "t.jsonl").read_text().splitlines()) == len(PROMPTS)
    clamp = write_steered(model, [Plan({}, [steer(SITE, s, 0.0, "clamp")])], PROMPTS, None, SHORT)
    assert texts(clamp)[0] != texts(rows)[0]


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_killed_and_resumed_equals_uninterrupted(model, plans, tmp_path, monkeypatch, temperature):
    sampling = Sampling(max_new_tokens=5, temperature=temperature, seed=3)
    whole = write_steered(model, plans, PROMPTS, tmp_path / "whole.jsonl", sampling, 4)
    out, calls = tmp_path / "part.jsonl", []

    def killed(model, prompts, *rest, on_batch, **options):
        def note(first, done):
            on_batch(first, done)
            raise KeyboardInterrupt

        return generate(model, prompts, *rest, on_batch=note, **options)

    monkeypatch.setattr(sweep, "generate", killed)
    with pytest.raises(KeyboardInterrupt):
        write_steered(model, plans, PROMPTS, out, sampling, 4)
    assert len(out.read_text().splitlines()) == 4
    out.write_bytes(out.read_bytes()[:-7])  # killed while it wrote

    def counted(model, prompts, *rest, **options):
        calls.append(len(prompts))
        return generate(model, prompts, *rest, **options)

    monkeypatch.setattr(sweep, "generate", counted)
    resumed = write_steered(model, plans, PROMPTS, out, sampling, 4)
    assert resumed == whole and calls == [len(plans) * len(PROMPTS) - 3]
    again = write_steered(model, plans, PROMPTS, out, sampling, 4)
    assert again == whole and len(calls) == 1
    write_steered(model, plans, [*PROMPTS, "She"], out, sampling, 4)
    assert calls[1] == len(plans)


def test_other_settings_are_other_texts(model, plans, tmp_path):
    out = tmp_path / "t.jsonl"
    first = write_steered(model, plans[:2], PROMPTS, out, SHORT)
    other = Sampling(max_new_tokens=5, edit_prompt=False)
    new_only = write_steered(model, plans[:2], PROMPTS, out, other)
    assert new_only[0] == first[0]  # unsteered: nothing that the setting could change
    assert {r["id"] for r in new_only[1]}.isdisjoint(r["id"] for r in first[1])
    expected = generate(model, PROMPTS, plans[1].edits, 5, edit_prompt=False)
    assert [row["text"] for row in new_only[1]] == expected


def test_nothing_to_do_is_refused(model, plans):
    for some, prompts in (([], PROMPTS), (plans, [])):
        with pytest.raises(InputError, match="at least one plan and one prompt"):
            write_steered(model, some, prompts)
