"""The page: Gradio's controls joined to the answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from atlas_jax.explorer.answers import ROWS, Answers, Shown
from atlas_jax.explorer.link import TABS, Place
from atlas_jax.explorer.style import ADDRESS, CHOOSE
from atlas_jax.models.sites import MODES

_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
_TITLES = dict(zip(TABS, ("Search", "Steer", "Compare", "Bridge"), strict=True))


def build_page(answers: Answers) -> gr.Blocks:
    """All tabs; nothing is computed before somebody opens it."""
    with gr.Blocks(title="atlas-jax explore", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(answers.heading(), apply_default_css=False)
        place, link = gr.State(Place()), gr.Textbox(elem_id="link", visible="hidden")
        with gr.Tabs(selected=TABS[0]) as tabs:
            with gr.Tab(_TITLES["search"], id="search"):
                search = _Search(answers, place, link)
            with gr.Tab(_TITLES["steer"], id="steer"):
                towards = gr.HTML(elem_id="towards", apply_default_css=False)
                _steer(answers, place)
            with gr.Tab(_TITLES["compare"], id="compare"):
                compared = gr.HTML(apply_default_css=False)
            with gr.Tab(_TITLES["bridge"], id="bridge"):
                words = gr.Textbox(
                    label="Only explanations with these words",
                    max_lines=1,
                    visible=answers.lift is not None,
                )
                bridged = gr.HTML(apply_default_css=False)
        views = [towards, compared, bridged]

        def open_tab(here: Place, event: gr.SelectData) -> tuple[Any, ...]:
            tab = next((key for key, title in _TITLES.items() if title == event.value), TABS[0])
            here = replace(here, tab=tab)
            return here, here.link(), *_opened(answers, here)

        def restore(request: gr.Request) -> tuple[Any, ...]:
            here = answers.read_link(dict(request.query_params))
            return here, gr.Tabs(selected=here.tab), *_opened(answers, here)

        tabs.select(open_tab, place, [place, link, *views], **_QUIET)
        words.input(answers.bridge, words, bridged, trigger_mode="always_last", **_QUIET)
        opened = page.load(restore, None, [place, tabs, *views], **_QUIET)
        opened.then(search.restore, place, search.outputs, **_QUIET)
        link.change(None, link, None, js=ADDRESS, **_QUIET)
    return page


def _opened(answers: Answers, here: Place) -> tuple[Any, ...]:
    """What the Steer, Compare and Bridge tabs show when they are opened."""
    made = {
        "steer": lambda: answers.direction(here),
        "compare": answers.comparison,
        "bridge": answers.bridge,
    }
    return tuple(make() if tab == here.tab else gr.skip() for tab, make in made.items())


class _Search:
    """The Search tab's controls and what they do."""

    def __init__(self, answers: Answers, place: gr.State, link: gr.Textbox) -> None:
        self.answers = answers
        explored = answers.explored
        self.found = gr.State([])
        with gr.Row():
            with gr.Column(scale=2, min_width=340):
                with gr.Row():
                    self.text = gr.Textbox(
                        label="Concept",
                        placeholder="dogs and cats, or feature numbers: 12, 34",
                        max_lines=1,
                        elem_id="concept",
                        scale=4,
                    )
                    button = gr.Button("Search", variant="primary", scale=0, min_width=100)
                self.message = gr.HTML(elem_id="message", apply_default_css=False)
                with gr.Column(elem_id="ticks", visible=False) as self.box:
                    rows = [_tick(i) for i in range(ROWS)]
                self.ticks = [tick for tick, _, _ in rows]
                self.weights = [weight for _, weight, _ in rows]
                self.lines = [line for _, _, line in rows]
                with gr.Row():
                    self.site = gr.Dropdown(
                        list(answers.sites), label="Site", value=answers.sites[-1]
                    )
                    self.method = gr.Dropdown(
                        list(explored.methods), label="Method", value=explored.method
                    )
                self.ranking = gr.HTML(
                    js_on_load=CHOOSE, elem_id="ranking", apply_default_css=False
                )
            with gr.Column(scale=3, min_width=420):
                self.heat = gr.Checkbox(
                    label="Shade the tokens (loads the subject's model)",
                    elem_id="heat",
                    container=False,
                )
                self.detail = gr.HTML(elem_id="detail", apply_default_css=False)
        views = [place, link, self.message, self.ranking, self.detail]
        chosen = [self.text, self.site, self.method, self.heat]
        self.outputs = [
            *views,
            *chosen,
            self.found,
            self.box,
            *self.lines,
            *self.ticks,
            *self.weights,
        ]
        state = [place, self.text, self.site, self.method, self.heat]
        ticked = [self.found, *self.ticks, *self.weights]

        gr.on(
            [self.text.submit, button.click],
            self._search,
            state,
            self.outputs,
            trigger_mode="always_last",
            **_QUIET,
        )
        gr.on(
            [c.input for c in (*self.ticks, *self.weights, self.site, self.method)],
            self._rank,
            [*state, *ticked],
            views,
            trigger_mode="always_last",
            **_QUIET,
        )
        self.heat.input(self._shade, state, views, trigger_mode="always_last", **_QUIET)
        self.ranking.click(self._choose, state, views, trigger_mode="always_last", **_QUIET)

    def restore(self, here: Place) -> Iterator[list[Any]]:
        """What a link says, shown; an empty one must not wipe out what is being typed."""
        if here == self.answers.read_link({"tab": here.tab}):
            yield [gr.skip()] * len(self.outputs)
            return
        for shown in self.answers.search(here):
            yield self._all(shown)

    def _search(self, here: Place, *controls: Any) -> Iterator[list[Any]]:
        asked = replace(_at(here, *controls), weights=(), feature=None)
        for shown in self.answers.search(asked):
            yield self._all(shown)

    def _rank(
        self, here: Place, text: str, site: str, method: str, heat: bool,
        found: list[int], *rows: Any,
    ) -> Iterator[list[Any]]:  # fmt: skip
        ticks, weights = rows[:ROWS], rows[ROWS:]
        kept = [
            (feature, float(weight or 0))
            for feature, tick, weight in zip(found, ticks, weights, strict=False)
            if tick
        ]
        asked = _at(here, text, site, method, heat)
        yield from self._views(replace(asked, weights=tuple(kept), feature=None))

    def _shade(self, here: Place, *controls: Any) -> Iterator[list[Any]]:
        yield from self._views(_at(here, *controls))

    def _choose(
        self, here: Place, text: str, site: str, method: str, heat: bool, event: gr.EventData
    ) -> Iterator[list[Any]]:
        feature = (str(event.site), int(event.feature))
        asked = _at(here, text, site, method, heat)
        yield from self._views(replace(asked, feature=feature))

    def _views(self, here: Place) -> Iterator[list[Any]]:
        for shown in self.answers.show(here):
            yield _shown(shown)

    def _all(self, shown: Shown) -> list[Any]:
        here, rows = shown.place, shown.rows or ()
        blank = ROWS - len(rows)
        return [
            *_shown(shown),
            here.text,
            here.site,
            here.method,
            here.heat,
            [concept.feature for concept, _ in rows],
            gr.Column(visible=bool(rows)),
            *(gr.Row(visible=i < len(rows)) for i in range(ROWS)),
            *(gr.Checkbox(label=f"{c.feature}  {c.description}", value=on) for c, on in rows),
            *[gr.Checkbox(label="", value=False)] * blank,
            *(concept.weight for concept, _ in rows),
            *[1.0] * blank,
        ]


def _tick(i: int) -> tuple[gr.Checkbox, gr.Number, gr.Row]:
    with gr.Row(elem_classes="row", visible=False) as line:
        tick = gr.Checkbox(label="", container=False, scale=5, elem_id=f"tick{i}")
        weight = gr.Number(
            1.0, step=0.05, show_label=False, container=False, scale=0, min_width=84,
            elem_id=f"weight{i}", label=f"weight {i + 1}",
        )  # fmt: skip
    return tick, weight, line


def _at(here: Place, text: str, site: str, method: str, heat: bool) -> Place:
    return replace(here, text=text, site=site, method=method, heat=bool(heat))


def _shown(shown: Shown) -> list[Any]:
    return [shown.place, shown.place.link(), shown.message, shown.ranking, shown.detail]


def _steer(answers: Answers, place: gr.State) -> None:
    """The Steer tab: the direction is what is ticked under Search, at its site and method."""
    most, first = answers.strengths()
    prompt = answers.explored.run.recipe.get("steer", {}).get("prompt", "")
    with gr.Row():
        words = gr.Textbox(prompt, label="Prompt", scale=4, max_lines=4, elem_id="prompt")
        begin = gr.Button("Write", variant="primary", scale=0, min_width=100, elem_id="write")
        end = gr.Button("Stop", scale=0, min_width=100)
    with gr.Row():
        strength = gr.Slider(
            -most, most, first, step=most / 40, label="Strength", elem_id="strength"
        )
        tokens = gr.Slider(4, 200, 40, step=4, label="New tokens")
        mode = gr.Dropdown(list(MODES), label="Edit", value="steer")

    def write(*controls: Any) -> Iterator[Any]:
        yield from answers.steer(*controls)

    texts: Sequence[Any] = [gr.HTML(elem_id="texts", apply_default_css=False)]
    writing = gr.on(
        [begin.click, words.submit], write, [place, words, strength, tokens, mode], texts,
        concurrency_limit=1, **_QUIET,
    )  # fmt: skip
    end.click(None, cancels=[writing], **_QUIET)
