"""The report: whatever the result holds, the page is whole, safe, self-contained and the same."""

import copy
import importlib.util
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_jax.errors import InputError
from atlas_jax.report import render_report, save_plots, save_report
from atlas_jax.report.figures import curve, distribution, intervals
from atlas_jax.report.markup import element, number, table
from atlas_jax.report.page import SECTIONS

_spec = importlib.util.spec_from_file_location(
    "report_example", Path(__file__).with_name("example.py")
)
assert _spec and _spec.loader
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
example = _module.example

ATTACK = "<script>alert('x')</script>\"><img src=x onerror=alert(1)> & </style></title>"
PAGE = render_report(example())
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """What a browser would find: tags with attributes, text, and whether all are closed."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def quick():
    """The same with two plots: drawing is most of the time."""
    result = example()
    site, by = next(iter(result["quality"]["layers"].items()))
    kept = ("auroc", "ap")
    layer = {m: {k: by[m][k] for k in kept} for m in ("covariance", "procrustes", "random")}
    result["quality"]["layers"] = {site: layer}
    return result | {"retrieval": {}, "learning_curve": []}


def attack(value):
    """The same structure with every string (but the names of methods, sites, metrics) hostile."""
    if isinstance(value, dict):
        return {key: attack(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [attack(inner) for inner in value]
    return ATTACK if isinstance(value, str) else value


def test_every_section_is_there_and_leads_to_its_heading():
    page = Page(PAGE)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert [i for i in ids if i in SECTIONS] == list(SECTIONS)
    assert len(set(ids)) == len(ids)
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    assert links == [f"#{key}" for key in SECTIONS if key != "summary"]
    for title, _ in SECTIONS.values():
        assert title in page.text


def test_every_string_of_the_result_is_escaped():
    hostile = attack(example())
    layers = hostile["quality"]["layers"]
    site = next(iter(layers))
    layers[ATTACK] = {ATTACK: copy.deepcopy(layers[site]["procrustes"])}
    hostile["corpus"]["counts"][ATTACK] = {ATTACK: 3}
    hostile["versions"] |= {ATTACK: "1"}
    hostile["timings"] |= {ATTACK: 1.0}
    hostile["atlas"]["card"] |= {ATTACK: 1.0}
    hostile["learning_curve"].append({"n": 9, "site": ATTACK, "methods": {ATTACK: {"ap": 0.1}}})
    source = render_report(hostile)
    page = Page(source)
    assert "<script" not in source.lower() and "<img" not in source.lower()
    assert not {"script", "img", "iframe", "object", "link"} & {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name[:2] == "on"]
    assert page.text.count(ATTACK) > 40


@settings(deadline=None, max_examples=30)
@given(st.text())
def test_a_text_comes_out_as_it_went_in(text):
    result = {"queries": [{"name": "q", "neurons": [{"samples": [{"text": text}]}]}]}
    source = render_report(result)
    assert element("p", text, dir="auto") in source
    shown = element("p", text)
    assert not re.search(r"<(?!/?p>)", shown)


def test_nothing_is_loaded_from_anywhere():
    source = PAGE
    assert not re.search(r"(?:https?:)?//", source.replace("<!doctype html>", ""))
    assert not re.search(r"@import|url\((?!#)", source)
    page = Page(source)
    for _, attributes in page.tags:
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")


def test_numbers_are_shown_as_they_are():
    result = example()
    page = Page(render_report(result))
    for site, by in result["quality"]["layers"].items():
        assert site in page.text
        for method, scores in by.items():
            assert method in page.text
            for metric in ("auroc", "ap"):
                for value in scores[metric]:
                    assert f"{value:.3f}" in page.text
    for value in ("268,098,176", "2,048", "0.643", "33,116", "84.5", "99.6", "0123456789abcdef"):
        assert value in page.text


def test_the_best_of_each_column_is_bold_and_random_never():
    result = example()
    layers = result["quality"]["layers"]
    for by in layers.values():
        by["random"]["auroc"] = [0.999, 0.998, 1.0]
    source = render_report(result)
    table = source[source.index('<table class="quality">') :]
    bold = re.findall(r"<strong>([\d.]+)</strong>", table[: table.index("</table>")])
    best = [
        max(scores[metric][0] for method, scores in by.items() if method != "random")
        for by in layers.values()
        for metric in ("auroc", "ap")
    ]
    assert sorted(bold) == sorted(f"{value:.3f}" for value in best)
    top = max(best[0], best[2])
    assert f": {top:.3f}, chance being 0.500" in Page(source).text


def test_retrieval_stands_beside_its_chance():
    page = Page(PAGE).text
    assert "0.310 (0.270 – 0.350)" in page and "0.021 (0.018 – –)" in page
    assert page.index("Subject features found again") < page.index("With more text")


def test_unsteered_comes_first_and_strengths_rise():
    page = Page(PAGE).text
    texts = ["and then came in.", "and then dogs came in.", "and then dogs dogs dogs dogs came in."]
    places = [page.index(text) for text in texts]
    assert places == sorted(places)


def test_columns_of_numbers_end_flush_right_and_texts_do_not():
    rows = [["a", "1,000", "0.5", "7 dwarfs"], ["b", "–", "-2.25", "10"]]
    shown = table(["", "n", "x", "text"], rows)
    assert re.findall(r'<th scope="col"( class="n")?>', shown) == ["", *[' class="n"'] * 2, ""]
    assert re.findall(r"<td( class=\"n\")?>", shown) == [*[' class="n"'] * 2, ""] * 2


def test_tokens_carry_their_heat():
    source = PAGE
    sample = example()["queries"][0]["neurons"][0]["samples"][0]
    for token, heat in zip(sample["tokens"], sample["heat"], strict=True):
        if heat >= 0.02:
            assert f'<span style="--heat:{heat:.2f}" title="{heat:.2f}">{token}</span>' in source


@pytest.mark.parametrize("missing", [*example(), None])
def test_each_part_may_be_missing(missing):
    result = {k: v for k, v in quick().items() if k != missing} if missing else {}
    page = Page(render_report(result))
    assert page.tags[0] == ("html", {"lang": "en"})


def test_inner_parts_may_be_missing_or_not_a_number():
    result = example()
    layer = next(iter(result["quality"]["layers"].values()))
    layer["ridge"] = {"auroc": [float("nan")] * 3, "ap": [0.2, None, None]}
    layer["covariance"]["auroc_per_feature"] = [None, float("nan")]
    del layer["correlation"], layer["random"]
    del result["quality"]["base_rate"], result["corpus"]["counts"]
    result["queries"] = [{"name": "q"}, {"features": [], "neurons": [{"site": "s", "feature": 1}]}]
    result["learning_curve"] = [{"n": 10, "site": "s"}, {"n": 20, "methods": {"a": {}}}]
    source = render_report(result)
    assert "nan" not in Page(source).text
    assert not re.search(r'"-?(?:nan|inf)"', source)


def test_the_same_result_gives_the_same_page_also_from_json():
    result = json.loads(json.dumps(example()))
    assert render_report(result) == PAGE
    assert result == json.loads(json.dumps(example()))  # nothing was changed on the way


def test_saving_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = save_report(quick(), tmp_path / "new" / "report.html")
    assert path.read_text("utf-8") == render_report(quick())
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Could not write") as error:
        save_report(quick(), tmp_path / "file" / "report.html")
    assert "\n" not in str(error.value)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("atlas_jax.files.os.replace", full)
    with pytest.raises(InputError, match="No space left"):
        save_report({}, path)
    assert path.read_text("utf-8") == render_report(quick())
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def points(drawing, gid=None):
    """What the lines of a plot stand at; those with a name, or those with a mark."""
    lines = drawing.figure.axes[0].get_lines()
    kept = [ln for ln in lines if ln.get_gid() == gid and (gid or ln.get_marker() != "None")]
    return [(list(line.get_xdata()), list(line.get_ydata()), line.get_color()) for line in kept]


def test_marks_stand_where_the_numbers_say():
    layers = {"s": {"a": {"auroc": [0.6, 0.5, 0.7]}, "b": {"auroc": [0.8, 0.75, 0.85]}}}
    drawing = intervals(layers, ["a", "b"], "auroc", "AUROC", 0.5)
    (a, b), (whisker, _) = points(drawing), points(drawing, "whisker")
    assert (a[0], b[0], whisker[0]) == ([0.6], [0.8], [0.5, 0.7])
    assert a[1] == [whisker[1][0]] and a[1] != b[1] and a[2] != b[2]
    low, high = drawing.figure.axes[0].get_xlim()
    assert low < 0.5 and high > 0.85
    # A method that one site lacks keeps its colour.
    less = intervals({"s": {"b": layers["s"]["b"]}}, ["a", "b"], "auroc", "AUROC", None)
    assert points(less)[0][2] == b[2]


def test_one_dot_for_each_feature_and_the_median():
    layers = {"s": {"a": {"auroc_per_feature": [0.2, 0.9, None, 0.4, float("nan")]}}}
    drawing = distribution(layers, ["a"], "auroc", "AUROC")
    assert drawing is not None
    assert points(drawing)[0][0] == [0.2, 0.4, 0.9]
    assert points(drawing, "median")[0][0] == [0.4, 0.4]
    assert distribution({"s": {"a": {"auroc": [0.5, 0.4, 0.6]}}}, ["a"], "auroc", "x") is None


def test_doubling_the_texts_is_an_equal_step():
    counts = [{"n": n, "methods": {"a": {"auroc": 0.5 + n / 8000}}} for n in (4000, 1000, 2000)]
    drawing = curve(counts, ["a"], "auroc", "AUROC")
    assert drawing is not None
    ((x, y, _),) = points(drawing)
    assert (x, y) == ([1000, 2000, 4000], [0.625, 0.75, 1.0])
    assert drawing.figure.axes[0].get_xscale() == "log"


def test_plots_follow_the_theme_of_the_page_and_keep_their_ids_apart():
    drawing = curve([{"n": 9, "methods": {"a": {"ap": 0.5}}}], ["a"], "ap", "AP")
    assert drawing is not None
    inline = drawing.inline("one")
    assert ElementTree.fromstring(inline).find("svg").get("aria-label") == drawing.label  # type: ignore[union-attr]
    assert not re.search("#[0-9a-f]{6}", inline) and "var(--c0)" in inline
    ids = set(re.findall(r'\bid="([^"]+)"', inline))
    assert ids and not ids & set(re.findall(r'\bid="([^"]+)"', drawing.inline("two")))
    used = re.findall(r'(?:href="|url\()#([^")]+)', inline)
    assert used and set(used) <= ids


def test_every_plot_is_also_a_file_and_the_same_each_time(tmp_path):
    result = {key: example()[key] for key in ("learning_curve", "retrieval")}
    first, second = (save_plots(result, tmp_path / name) for name in "ab")
    assert len(first) == 2 * render_report(result).count('role="img"') > 0
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
        if one.suffix == ".svg":
            root = ElementTree.parse(one).getroot()
            assert root.tag.endswith("svg") and "procrustes" in "".join(root.itertext())
        else:
            assert one.read_bytes().startswith(b"%PDF")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Expected to write plots"):
        save_plots({}, tmp_path / "file" / "figures")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1234567, "1,234,567"), (0.12345, "0.123"), (None, "–"), (float("nan"), "–"), ("a", "a")],
)
def test_numbers_for_reading(value, shown):
    assert number(value) == shown
