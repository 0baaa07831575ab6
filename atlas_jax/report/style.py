"""The style of the report: light and dark, on wide and narrow screens, and on paper."""

from __future__ import annotations

from collections.abc import Mapping

from atlas_jax.report.markup import Html

# Texts reach a contrast of 4.5:1 on their background, and so do the six colours of methods (WCAG
# 1.4.3); these are told apart with the common kinds of colour blindness, and never stand without
# a mark or a name. `tests/report/test_style.py` computes all three.
LIGHT = {
    **{"page": "#fbfaf7", "card": "#ffffff", "ink": "#1f2328", "soft": "#59616b"},
    **{"rule": "#dcd8cf", "link": "#0b5a8f", "hot": "#d66a00", "bar": "#b9b3a6"},
    **{"c0": "#2f5a9c", "c1": "#ba500d", "c2": "#137b5e"},
    **{"c3": "#ac4989", "c4": "#906d37", "c5": "#425463"},
}
DARK = {
    **{"page": "#16181b", "card": "#1e2125", "ink": "#e6e4df", "soft": "#a3a9b1"},
    **{"rule": "#373c43", "link": "#7cc0f0", "hot": "#f08c28", "bar": "#5a616b"},
    **{"c0": "#57aee6", "c1": "#e88a54", "c2": "#14d1a9"},
    **{"c3": "#cf7fb0", "c4": "#dac04e", "c5": "#bec4d5"},
}
HEAT = 0.5
"""The share of `hot` behind the token that is most active."""

_COLOURS = " ".join(f"--{name}: light-dark({LIGHT[name]}, {DARK[name]});" for name in LIGHT)

RULES = Html("""* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 17px/1.6 Charter, "Bitstream Charter", "Iowan Old Style", Georgia, "DejaVu Serif", serif;
}
main { max-width: 53rem; margin: 0 auto; padding: 3.5rem 1.25rem 5rem; }
h1 { font-size: 2.1rem; line-height: 1.2; margin: 0; text-wrap: balance; }
h2 { font-size: 1.45rem; line-height: 1.3; margin: 3.75rem 0 1rem; padding-top: 1.25rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
h4, h5, nav, table, summary, dl, .theme, .created, .gauge, .concepts, svg {
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
h4, h5 { font-size: .82rem; font-weight: 600; color: var(--soft); margin: 1.1rem 0 .4rem; }
p { margin: 0 0 1rem; max-width: 44rem; }
a { color: var(--link); text-underline-offset: .18em; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
code { font: .84em ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; }
.theme { display: flex; justify-content: flex-end; gap: 1rem; margin: 0 0 1.5rem; padding: 0;
  border: 0; font-size: .8rem; color: var(--soft); }
.theme legend { float: left; padding: 0; }
.theme label { display: inline-flex; gap: .3rem; align-items: center; cursor: pointer; }
.created { color: var(--soft); font-size: .85rem; margin: .6rem 0 0; }
.lead { font-size: 1.12rem; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; padding: 0;
  margin: 1.4rem 0 0; font-size: .88rem; }
#summary h2 { position: absolute; width: 1px; height: 1px; overflow: hidden;
  clip-path: inset(50%); }
#summary { margin-top: 2rem; padding-top: 2rem; border-top: 1px solid var(--rule); }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr));
  gap: .9rem 2rem; margin: 1.6rem 0 0; font-size: .9rem; }
.facts div { min-width: 0; }
.facts dt { color: var(--soft); font-size: .8rem; }
.facts dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; line-height: 1.4; margin: .5rem 0 1.5rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .5rem; }
th, td { padding: .45rem .9rem .45rem 0; text-align: left; vertical-align: baseline; }
th:last-child, td:last-child { padding-right: .2rem; }
thead th { font-weight: 600; color: var(--soft); border-bottom: 1px solid var(--ink);
  white-space: nowrap; }
tbody tr + tr > * { border-top: 1px solid var(--rule); }
tbody th { font-weight: 500; white-space: nowrap; }
td.n, th.n { text-align: right; white-space: nowrap; }
td small { display: block; color: var(--soft); font-size: .74rem; }
.quality th, .quality td { padding-right: 1.4rem; }
.quality thead th { border-bottom-color: var(--rule); }
.quality thead tr:last-child th, .quality thead th[rowspan] { border-bottom-color: var(--ink); }
.quality strong { font-weight: 700; }
.floor > * { color: var(--soft); font-weight: 400; }
.hash { overflow-wrap: anywhere; }
.figure { margin: .5rem 0 1rem; }
svg { display: block; width: 100%; min-width: 34rem; height: auto; overflow: visible; }
svg text { font-family: inherit !important; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  padding: 1.25rem 1.4rem; margin: 0 0 1.5rem; }
.card > h3 { margin: 0; font-size: 1.25rem; }
.card table { margin-bottom: 0; }
.concepts { list-style: none; margin: 0; padding: 0; font-size: .86rem; }
.concepts li { display: grid; grid-template-columns: 4.2rem 1fr auto; gap: .6rem;
  padding: .18rem 0; align-items: baseline; }
.concepts code { color: var(--soft); }
.concepts .weight { color: var(--soft); font-variant-numeric: tabular-nums; }
details { border-top: 1px solid var(--rule); padding: .6rem 0; }
details:last-child { padding-bottom: 0; }
summary { cursor: pointer; font-size: .9rem; overflow-wrap: anywhere; }
.neuron { font-weight: 600; }
.score { color: var(--soft); font-variant-numeric: tabular-nums; margin-left: .6rem; }
.samples { margin: 0; padding: 0; list-style: none; }
.samples li { display: grid; grid-template-columns: 9.5rem 1fr; gap: .9rem; padding: .35rem 0; }
.samples p { margin: 0; font-size: .96rem; line-height: 1.55; overflow-wrap: anywhere; }
.gauge { display: flex; flex-wrap: wrap; gap: 0 .6rem; align-items: baseline; align-content: start;
  font-size: .8rem; color: var(--soft); font-variant-numeric: tabular-nums; }
.meter { flex: 1 0 100%; height: 4px; border-radius: 2px; margin-top: .65rem;
  background: linear-gradient(var(--bar) 0 0) 0 / calc(100% * var(--share)) 100% no-repeat; }
.tokens { white-space: pre-wrap; }
.tokens span[style] { background: color-mix(in srgb,
  var(--hot) calc(var(--most) * var(--heat)), transparent); }
.steering td:last-child { min-width: 22rem; }
.steering .written { white-space: pre-wrap; font: 1rem/1.55 Charter, "Bitstream Charter", Georgia,
  "DejaVu Serif", serif; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  body { font-size: 16px; }
  main { padding-top: 2rem; }
  .samples li { grid-template-columns: 1fr; gap: .2rem; }
  .card { padding: 1rem; }
}
@media print {
  body { background: none; font-size: 10.5pt; }
  .card, .figure, tr { break-inside: avoid; }
  nav, .theme { display: none; }
}
""")
STYLE = Html(
    f":root {{ color-scheme: light dark; {_COLOURS} --most: {100 * HEAT:g}%; }}"
    """
:root:has(#theme-light:checked) { color-scheme: light; }
:root:has(#theme-dark:checked) { color-scheme: dark; }
@media print { :root { color-scheme: light !important; } }
"""
    f"{RULES}"
)


def palette(colours: Mapping[str, str]) -> Html:
    """The variables that `RULES` refers to, in one theme: `LIGHT` or `DARK`."""
    return Html(" ".join(f"--{k}: {v};" for k, v in colours.items()) + f" --most: {100 * HEAT:g}%;")
