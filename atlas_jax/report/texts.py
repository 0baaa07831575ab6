"""The sections that show texts: queries with the neurons they find, and steered generations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from atlas_jax.report.markup import Html, element, join, number, table

Result = Mapping[str, Any]


def queries(result: Result) -> Html | None:
    """A card for each query: its atlas features, then the subject's neurons with their texts."""
    cards = [_query(query) for query in result.get("queries") or []]
    return join(cards) if cards else None


def _query(query: Mapping[str, Any]) -> Html:
    neurons = [_neuron(neuron, i == 0) for i, neuron in enumerate(query.get("neurons") or [])]
    found = element("h4", "Neurons of the subject that it finds") if neurons else None
    concepts = concept_list(query.get("features") or [])
    chosen = join([element("h4", "Features of the atlas"), concepts]) if concepts else None
    title = element("h3", str(query.get("name", "query")))
    return element("article", title, chosen, found, *neurons, class_="card")


def _neuron(neuron: Mapping[str, Any], first: bool) -> Html:
    name = element("span", f"{neuron.get('site')} · {neuron.get('feature')}", class_="neuron")
    score = element("span", f"score {number(neuron.get('score'))}", class_="score")
    samples = neuron.get("samples") or []
    top = max((float(s.get("activation") or 0) for s in samples), default=0.0)
    concepts = concept_list(neuron.get("concepts") or [])
    body = [
        join([element("h5", "Its strongest concepts"), concepts]) if concepts else None,
        element("h5", "Texts on which it is most active") if samples else None,
        element("ol", *(sample_item(s, top) for s in samples), class_="samples")
        if samples
        else None,
    ]
    summary = element("summary", name, " ", score)
    return element("details", summary, *body, open="" if first else None)


def sample_item(sample: Mapping[str, Any], top: float) -> Html:
    """A text with its activation beside it, as a share of the largest one."""
    activation = float(sample.get("activation") or 0)
    share = max(0.0, min(1.0, activation / top)) if top > 0 else 0.0
    meter = element("span", style=f"--share:{share:.3f}", class_="meter", aria_hidden="true")
    tag = element("span", sample["source"], class_="source") if sample.get("source") else None
    value = element("span", number(activation, 2), class_="activation")
    return element("li", element("div", meter, value, tag, class_="gauge"), _text(sample))


def _text(sample: Mapping[str, Any]) -> Html:
    """The text; where its tokens are known, each shaded by the activation on it."""
    tokens = sample.get("tokens")
    if not tokens:
        return element("p", str(sample.get("text", "")), dir="auto")
    spans = []
    for token, heat in zip_longest(tokens, (sample.get("heat") or [])[: len(tokens)]):
        share = max(0.0, min(1.0, float(heat or 0)))
        if share < 0.02:
            spans.append(Html(element("span", token)))
            continue
        spans.append(element("span", token, style=f"--heat:{share:.2f}", title=f"{share:.2f}"))
    return element("p", *spans, class_="tokens", dir="auto")


def concept_list(concepts: Sequence[Mapping[str, Any]]) -> Html | None:
    """Atlas features with their descriptions and weights."""
    if not concepts:
        return None
    rows = [
        element(
            "li",
            element("code", concept.get("feature")),
            element("span", concept.get("description") or "no description"),
            element("span", number(concept.get("weight")), class_="weight"),
        )
        for concept in concepts
    ]
    return element("ul", *rows, class_="concepts")


def steering(result: Result) -> Html | None:
    """What the subject writes at each strength: a table for each query and prompt."""
    parts = []
    for trial in result.get("steering") or []:
        outputs = sorted(trial.get("outputs") or [], key=_unsteered_first)
        rows = [
            [
                (output.get("strength") and output.get("label")) or "unsteered",
                number(float(output.get("strength") or 0), 1),
                element("span", output.get("text", ""), class_="written", dir="auto"),
            ]
            for output in outputs
        ]
        title = element("h3", str(trial.get("query", "")))
        prompt = element("p", "Prompt: ", element("q", trial.get("prompt", ""), dir="auto"))
        caption = f"Texts written after steering towards {trial.get('query', '')}"
        parts.append(
            element(
                "article",
                title,
                prompt,
                table(["Where", "Strength", "Text"], rows, caption),
                class_="card steering",
            )
        )
    return join(parts) if parts else None


def _unsteered_first(output: Mapping[str, Any]) -> tuple[bool, str, float]:
    strength = float(output.get("strength") or 0)
    return strength != 0, str(output.get("label") or ""), strength
