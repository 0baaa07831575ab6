"""The page in a real browser: search, ticks, links, steering, and what must not happen."""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from urllib.parse import parse_qsl, urlsplit

import pytest
import uvicorn
from playwright.sync_api import expect, sync_playwright

from atlas_jax.explorer.answers import Answers
from atlas_jax.explorer.server import listen, make_app

from .chromium import find_chromium
from .conftest import SITES

SECONDS = 300.0
QUERY = "rivers"


@pytest.fixture(scope="module")
def address(explored):
    # Gradio asks which functions are generators; one that is wrapped for type checks is none.
    assert Answers  # checked, as all that the page stands on
    hooks = [finder for finder in sys.meta_path if type(finder).__module__.startswith("jaxtyping")]
    for hook in hooks:
        sys.meta_path.remove(hook)
    importlib.import_module("atlas_jax.explorer.page")
    sys.meta_path[:0] = hooks
    at = listen(port=0)
    server = uvicorn.Server(uvicorn.Config(make_app(explored), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [at.socket]})
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield at.address
    server.should_exit = True
    thread.join(SECONDS)


@pytest.fixture(scope="module")
def browser():
    path, needs = find_chromium()
    arguments = ["--no-sandbox", "--disable-gpu", "--no-zygote"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=arguments, env={**os.environ, **needs}
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def visit(browser, address):
    """Opens an address; what pages ask for, say and throw is gathered."""
    asked, errors = [], []
    context = browser.new_context()
    context.set_default_timeout(1000 * SECONDS)
    expect.set_options(timeout=1000 * SECONDS)
    context.on("request", lambda request: asked.append(request.url))
    context.on("weberror", lambda error: errors.append(str(error.error)))

    def visit(query=""):
        page = context.new_page()
        page.goto(address + query)
        return page

    visit.asked, visit.errors = asked, errors
    yield visit
    context.close()


@pytest.fixture(scope="module")
def page(visit):
    """The page after a search."""
    page = visit()
    page.get_by_label("Concept").fill(QUERY)
    page.get_by_label("Concept").press("Enter")
    expect(page.locator(".samples li")).to_have_count(8)
    return page


def state(page):
    return dict(parse_qsl(urlsplit(page.url).query))


def ranked(page):
    """What the ranking's buttons stand for."""
    buttons = page.locator(".ranked button")
    places = buttons.evaluate_all("all => all.map(one => [one.dataset.site, +one.dataset.feature])")
    return [tuple(place) for place in places]


def test_a_search_gives_features_and_a_tick_ranks_anew(page, explored):
    shown = page.locator("#ticks input[type=checkbox]:visible")
    assert shown.count() == 8 and "0 rivers, kind 0" in page.locator("#ticks").inner_text()
    weights = {c.feature: c.weight for c in explored.search(QUERY)[:5]}
    before = explored.rank(weights, "all sites", "procrustes")
    assert ranked(page) == [(hit.site, hit.feature) for hit in before]
    page.locator("#tick5 input").check()
    weights |= {explored.search(QUERY)[5].feature: explored.search(QUERY)[5].weight}
    after = explored.rank(weights, "all sites", "procrustes")
    assert after != before
    first = f'.ranked li:first-child button[data-feature="{after[0].feature}"]'
    expect(page.locator(first)).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".ranked .score").first).to_have_text(f"{after[0].score:.3f}")
    assert ranked(page) == [(hit.site, hit.feature) for hit in after]
    assert state(page)["atlas"].count(":") == 6


def test_a_chosen_feature_opens_with_shaded_tokens(page):
    site, feature = ranked(page)[3]
    page.locator(".ranked button").nth(3).click()
    expect(page.locator("#detail h2")).to_have_text(f"{site} · {feature}")
    assert page.locator("#detail .spread rect").count() == 30
    page.locator("#heat input").check()
    expect(page.locator("#detail .tokens span[style]").first).to_be_visible()
    expect(page.locator("#detail .tokens")).to_have_count(8)
    assert state(page)["feature"] == f"{site}.{feature}" and state(page)["heat"] == "1"


def test_a_link_restores_the_state(page, visit):
    other = visit("?" + urlsplit(page.url).query)
    site, _, feature = state(page)["feature"].rpartition(".")
    expect(other.locator("#detail h2")).to_have_text(f"{site} · {feature}")
    expect(other.locator("#detail .tokens")).to_have_count(8)
    assert other.get_by_label("Concept").input_value() == QUERY
    assert other.locator("#ticks input:checked").count() == 6
    assert ranked(other) == ranked(page)
    other.close()
    compare = visit(f"?tab=compare&site={SITES[0]}")
    expect(compare.locator("table.quality").first).to_be_visible()
    compare.close()


def test_steered_text_streams_beside_unsteered(page):
    page.get_by_role("tab", name="Steer").click()
    page.locator("#prompt textarea").fill("The river")
    page.locator("#write").click()
    page.locator(".beside[data-done=false]").wait_for()
    page.locator(".beside[data-done=true]").wait_for()
    plain, steered = page.locator(".beside .new").all_inner_texts()
    assert plain and steered and plain != steered
    assert state(page)["tab"] == "steer"


def test_the_other_tabs(page):
    page.get_by_role("tab", name="Compare").click()
    expect(page.locator("table.quality").first).to_contain_text("covariance")
    page.get_by_role("tab", name="Bridge").click()
    expect(page.locator(".explained")).to_have_count(4)
    page.get_by_label("Only explanations").press_sequentially("music")
    expect(page.locator(".explained")).to_have_count(2)


def test_planted_markup_is_text_and_nothing_leaves_the_machine(page, visit, address):
    page.get_by_role("tab", name="Search").click()
    text = page.locator(".samples li").first.inner_text()
    assert "<script>window.hurt=1</script>" in text and "{{value}}" in text
    assert page.evaluate("window.hurt") is None
    assert page.locator("#detail img, #detail script, #ranking img, #ticks img").count() == 0
    kinds = {urlsplit(url).scheme for url in visit.asked}
    assert kinds <= {"http", "data", "blob"} and len(visit.asked) > 10
    assert {urlsplit(url).hostname for url in visit.asked if url[:4] == "http"} == {"127.0.0.1"}
    assert visit.errors == []
    other = urllib.request.Request(address, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(other)
