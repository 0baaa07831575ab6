"""Pages whose every text is an attack, in a real browser: nothing runs, nothing is asked for."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from types import ModuleType

import pytest
from playwright.sync_api import sync_playwright

from atlas_jax.explorer import views
from atlas_jax.explorer.explored import Concept, Detail, Ranked, Sample
from atlas_jax.explorer.held_out import Spread
from atlas_jax.explorer.results import Explanation, Lift
from atlas_jax.explorer.writing import Written
from atlas_jax.report import save_report
from atlas_jax.report.document import document
from atlas_jax.verbalize.lift_page import save_lift

ATTACKS = (
    "<script>document.hurt=1;alert(1)</script>",
    "</script></style></title></textarea><script>alert(2)</script>",
    '"><img src=x onerror=alert(3)><svg onload=alert(4)>',
    "' onmouseover='alert(5)' x='",
    '<a href="javascript:alert(6)" id=link autofocus onfocus=alert(7)>javascript:alert(8)</a>',
    "<iframe src='javascript:alert(9)'></iframe><object data=http://127.0.0.1:9/a></object>",
    "<link rel=stylesheet href=http://127.0.0.1:9/b><style>@import 'http://127.0.0.1:9/c'</style>",
    "<base href=http://127.0.0.1:9/><meta http-equiv=refresh content='0;url=http://127.0.0.1:9/d'>",
    "{{constructor.constructor('alert(10)')()}} ${alert(11)} <%= alert(12) %>",
    "line\u2028separator\u2029paragraph \u202eright to left\u2066 \x00\x0b\x1b[31m \ud800 ]]> -->",
    "&lt;script&gt; &#x3c;img src=x onerror=alert(13)&#x3e; red;background:url(http://127.0.0.1:9/e)",
)
ATTACK = " ".join(ATTACKS)


def _module(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path, Path(__file__).parents[1] / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def attacked(value):
    """The same with an attack for each text and each name that a text gave."""
    if isinstance(value, dict):
        return {key: attacked(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [attacked(inner) for inner in value]
    return ATTACK if isinstance(value, str) else value


@pytest.fixture(scope="module")
def browser():
    path, needs = _module("explorer/chromium.py").find_chromium()
    arguments = ["--no-sandbox", "--disable-gpu", "--no-zygote"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=arguments, env={**os.environ, **needs}
        )
        yield browser
        browser.close()


def opened(browser, path: Path) -> tuple[list[str], list[str], str]:
    """What a page asks for and does by itself and under a pointer; and the text that it shows."""
    context = browser.new_context()
    context.set_default_timeout(300_000)
    page = context.new_page()
    asked: list[str] = []
    done: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: (done.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("console", lambda message: done.append(f"console {message.type} {message.text}"))
    page.on("pageerror", lambda error: done.append(f"error {error}"))
    page.on("popup", lambda popup: done.append("popup"))
    page.on("download", lambda download: done.append("download"))
    page.goto(path.as_uri())
    for summary in page.locator("summary").all()[:3]:
        summary.click()
    page.mouse.move(300, 300)
    page.wait_for_timeout(200)
    text = page.inner_text("body")
    hurt = page.evaluate("document.hurt === undefined ? '' : 'hurt'")
    tags = page.evaluate("[...new Set([...document.querySelectorAll('*')].map(e => e.localName))]")
    strange = {"script", "img", "iframe", "object", "link", "base"} & set(tags)
    assert not strange and not hurt, (strange, hurt)
    context.close()
    return [url for url in asked if url != path.as_uri()], done, text


def lift():
    interval = {"mean": 0.1, "low": 0.0, "high": 0.2}
    figures = {
        "lift_spec": interval,
        "lift_rand": {ATTACK: interval},
        "lift_dc": interval,
        "own_cosine": 0.5,
        "normalised": 0.5,
        "top1": 0.5,
        "mrr": 0.5,
        "chance": 0.5,
        "nulls": {ATTACK: interval},
        "quirks": {ATTACK: 0.5},
    }
    side = {"model": ATTACK, "site": ATTACK}
    bridge = {"source": side, "target": side, "n": 3, "fve": {ATTACK: 0.5}}
    feature = {"name": ATTACK, "native": [ATTACK], "foreign": [ATTACK], "lift_spec": 0.1}
    washouts = {ATTACK: {"lift_spec": interval}}
    return {
        "figures": figures,
        "bridge": bridge,
        "features": [feature],
        "washouts": washouts,
        "plan": {"margin": 0.02},
    }


def explorer_views():
    """Every view of the explorer, as Gradio puts them into its page."""
    import numpy as np

    concept = Concept(1, 0.5, ATTACK)
    sample = Sample(ATTACK, ATTACK, 1.0, (ATTACK, ATTACK), (0.9, 0.0))
    spread = Spread(np.array([1, 2]), np.array([0, 1, 2], np.float32), 3, 3)
    found = Lift(ATTACK, ATTACK, 0.1, 0.0, 0.2, (Explanation(ATTACK, ATTACK, ATTACK, 0.1),))
    report = attacked({"quality": {}, "retrieval": {}, "learning_curve": []})
    return [
        views.heading(ATTACK, ATTACK, [ATTACK], ATTACK),
        views.note(ATTACK, "problem"),
        views.ranking([Ranked(ATTACK, 1, 0.5, (concept,)), Ranked("b", 2, 0.4, ())], (ATTACK, 1)),
        views.detail(Detail(ATTACK, ATTACK, 1, (concept,), (sample,), spread)),
        views.direction([concept], ATTACK, ATTACK),
        views.written(Written(ATTACK, ATTACK, ATTACK, True), 1.0),
        views.comparison(report, ATTACK),
        views.bridge(found, "", ATTACK),
        views.bridge(None, "", ATTACK),
    ]


def _report(folder: Path) -> Path:
    result = attacked(_module("report/example.py").example())
    site, layers = next(iter(result["quality"]["layers"].items()))
    kept = {key: layers["procrustes"][key] for key in ("auroc", "ap")}
    # Drawing is most of the time.
    result["quality"]["layers"] = {site: {"random": kept}, ATTACK: {ATTACK: kept}}
    result |= {"learning_curve": [], "retrieval": {}}
    result["versions"] |= {ATTACK: "1"}
    return save_report(result, folder / "report.html")


def _views(folder: Path) -> Path:
    path = folder / "views.html"
    path.write_bytes(document(ATTACK, *explorer_views()).encode("utf-8", "replace"))
    return path


PAGES = {
    "report": _report,
    "lift": lambda folder: save_lift(lift(), folder / "lift.html"),
    "views": _views,
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_attacks_opens_harmlessly(browser, tmp_path, name):
    path = PAGES[name](tmp_path)
    asked, done, text = opened(browser, path)
    assert asked == [] and done == []
    assert ATTACKS[0] in text and "javascript:alert(6)" in text  # as words


@pytest.mark.parametrize("name", PAGES)
def test_a_page_without_its_policy_is_as_harmless(browser, tmp_path, name):
    """The policy is a second lock: the first one, that texts are escaped, holds by itself."""
    path = PAGES[name](tmp_path)
    source, count = re.subn(
        r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", path.read_text()
    )
    assert count == 1
    path.write_text(source)
    asked, done, _ = opened(browser, path)
    assert asked == [] and done == []


def test_the_listener_hears_what_an_attack_does(browser, tmp_path):
    body = "<body><script>alert(1)</script><img src=http://127.0.0.1:9/x></body>"
    (tmp_path / "bad.html").write_text(f"<html>{body}</html>")
    with pytest.raises(AssertionError):
        opened(browser, tmp_path / "bad.html")
    context = browser.new_context()
    page, heard = context.new_page(), []
    page.on("dialog", lambda dialog: (heard.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: heard.append(request.url))
    page.goto((tmp_path / "bad.html").as_uri())
    assert "1" in heard and "http://127.0.0.1:9/x" in heard
    policed = document("t").replace("</main>", f"</main>{body}")
    (tmp_path / "policed.html").write_text(policed)
    heard.clear()
    page.goto((tmp_path / "policed.html").as_uri())
    assert "1" not in heard  # the second lock
    context.close()
