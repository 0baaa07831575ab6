"""The look of the explorer: the report's, inside Gradio's page."""

from __future__ import annotations

from atlas_jax.report.style import DARK, LIGHT, RULES, palette

# The report's rules are nested, so that they reach our own markup and nothing of Gradio's.
_OWN = """
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif;
  header { padding: .2rem 0 .4rem; }
  h1 { font-size: 1.25rem; font-weight: 650; }
  h1 small { font-weight: 400; color: var(--soft); font-size: 1rem; }
  h2, h3, h4 { font-weight: 600; }
  h2 { font-size: 1.05rem; margin: .4rem 0 .6rem; padding: 0; border: 0; overflow-wrap: anywhere; }
  h4 { margin: 1.1rem 0 .35rem; }
  .created { margin: .15rem 0 0; overflow-wrap: anywhere; }
  .note { color: var(--soft); margin: .6rem 0; max-width: none; }
  .problem { color: var(--c1); font-weight: 600; margin: .6rem 0; max-width: none; }
  .waiting { color: var(--soft); margin: 0 0 .3rem; font-size: .85rem; }
  .ranked { list-style: none; margin: 0; padding: 0; max-height: max(28rem, 100vh - 26rem);
    overflow-y: auto; }
  .ranked li + li { border-top: 1px solid var(--rule); }
  .ranked button { display: grid; grid-template-columns: 1fr auto; gap: .05rem .8rem; width: 100%;
    text-align: left; background: none; border: 0; color: inherit; font: inherit; cursor: pointer;
    padding: .45rem .6rem; border-left: 3px solid transparent; }
  .ranked button:hover { background: color-mix(in srgb, var(--hot) 8%, transparent); }
  .ranked button[aria-pressed="true"] { border-left-color: var(--hot);
    background: color-mix(in srgb, var(--hot) 12%, transparent); }
  .ranked small { margin-left: .6rem; color: var(--soft); font-weight: 400; }
  .ranked .meter { grid-column: 1 / -1; margin: .1rem 0 .15rem; flex: none; }
  .ranked .said { grid-column: 1 / -1; font-size: .84rem; color: var(--soft); overflow: hidden;
    display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical; }
  .spread { min-width: 0; max-width: 34rem; }
  .spread rect { fill: var(--c0); }
  .spread text { fill: var(--soft); font-size: 12px; }
  .spread line { stroke: var(--rule); }
  .samples p { max-width: none; }
  .figure { max-width: 56rem; }
  .beside { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
  .beside .card { margin: 0; padding: .4rem 1.2rem 1rem; min-height: 9rem; }
  .beside .written { white-space: pre-wrap; overflow-wrap: anywhere; max-width: none; margin: 0;
    font: 1.05rem/1.6 Charter, Georgia, "DejaVu Serif", serif; }
  .beside .prompt { color: var(--soft); }
  .beside .towards .new { background: color-mix(in srgb, var(--hot) 13%, transparent); }
  .explained { font-size: .9rem; display: block; min-width: 14rem; max-width: 26rem; }
  @media (max-width: 48rem) { .beside { grid-template-columns: 1fr; } }
"""

STYLE = f"""<style>
.explored {{ {palette(LIGHT)} {RULES} {_OWN} }}
.dark .explored {{ {palette(DARK)} }}
.gradio-container > main {{ padding: .9rem 1.6rem 2rem !important; }}
#ticks {{ gap: .3rem; }}
#ticks .row {{ align-items: center; gap: .6rem; flex-wrap: nowrap; }}
#ticks label span {{ font-size: .88rem; line-height: 1.35; }}
#ticks input[type=number] {{ padding: .25rem .5rem; }}
#message:not(:has(p)) {{ display: none; }}
#link, footer {{ display: none; }}
</style>"""

# Gradio keeps the element and changes what is in it: one listener serves every ranking.
CHOOSE = """element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-feature]');
  if (button) trigger('click', {site: button.dataset.site, feature: +button.dataset.feature});
});"""

ADDRESS = "(link) => { if (link) history.replaceState(history.state, '', link); }"
