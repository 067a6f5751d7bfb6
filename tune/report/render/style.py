"""The looks of the HTML page: its style sheet, and what its Content-Security-Policy allows."""

from __future__ import annotations

from tune.report.render.theme import variables

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"  # no script, no loading
NARROW = "(max-width: 720px)"
STYLE = f"""
:root {{ color-scheme: light dark; {variables(False)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {variables(True)} }} }}
@media print {{ :root {{ color-scheme: light; {variables(False)} }} }}
* {{ box-sizing: border-box; }}
html {{ scroll-padding-top: 3.25rem; }}
body {{ margin: 0; color: var(--text); background: var(--page); font: 16px/1.5 system-ui, sans-serif; }}
main, nav ul, footer {{ max-width: 68rem; margin: 0 auto; padding: 0 1.25rem; }}
nav {{ position: sticky; top: 0; z-index: 1; background: var(--page); border-bottom: 1px solid var(--line); }}
nav ul {{ display: flex; gap: 1.25rem; list-style: none; overflow-x: auto; white-space: nowrap; font-size: .875rem; }}
nav a {{ display: block; padding: .55rem 0; color: var(--soft); text-decoration: none; }}
nav a:hover, nav a:focus {{ color: var(--text); text-decoration: underline; }}
h1 {{ margin: 1.1rem 0 .4rem; font-size: 1.15rem; font-weight: 600; color: var(--soft); }}
h1, h2, h3, p, li, .arms td {{ overflow-wrap: anywhere; }} td {{ overflow-wrap: break-word; }}
h2 {{ margin: 2.6rem 0 .5rem; font-size: 1.3rem; line-height: 1.25; }}
h3 {{ margin: 1.6rem 0 .3rem; font-size: 1rem; }}
.answer {{ margin: 0 0 .5rem; font-size: 1.5rem; line-height: 1.3; font-weight: 650; }}
code {{ font-size: .9em; white-space: nowrap; }}
.more {{ margin: 0 0 .5rem; max-width: 52rem; }}
.soft, figcaption {{ color: var(--soft); font-size: .875rem; }}
.soft, figcaption, details li {{ max-width: 56rem; }}
.warning {{ margin: .6rem 0; padding: .5rem .8rem; background: var(--card); border-left: 4px solid var(--slow); }}
dl {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(7.4rem, 1fr)); gap: .6rem 1.25rem;
     margin: 1rem 0; padding: .7rem .9rem; background: var(--card); border-radius: 6px; }}
dl div:first-child {{ grid-column: span 2; }}
dt {{ color: var(--soft); font-size: .75rem; }} dd {{ margin: 0; font-size: .9rem; overflow-wrap: anywhere; }}
figure {{ margin: .8rem 0 0; }} figcaption {{ margin-top: .4rem; }}
svg {{ display: block; width: 100%; height: auto; overflow: visible; stroke-linejoin: round; }}
svg text {{ font-family: system-ui, sans-serif !important; }}
.narrow {{ display: none; }}
.wide-table {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .875rem; }} .arms {{ width: 100%; }}
th, td {{ border-bottom: 1px solid var(--line); padding: .4rem .5rem; text-align: left; vertical-align: top; }}
th {{ color: var(--soft); font-weight: 600; vertical-align: bottom; }}
th:first-child, td:first-child {{ padding-left: 0; min-width: 9.5rem; }} td.long {{ min-width: 13rem; }}
.number {{ text-align: right; font-variant-numeric: tabular-nums; }} td.number, .keep {{ white-space: nowrap; }}
.drawn {{ min-width: 10rem; width: 18%; }} .drawn svg {{ height: 14px; margin-top: .15rem; }}
.drawn svg * {{ vector-effect: non-scaling-stroke; }}
.base {{ background: var(--card); }}
.verdict {{ font-weight: 650; white-space: nowrap; }}
.good {{ color: var(--good); }} .costly {{ color: var(--costly); }} .slow {{ color: var(--slow); }}
.even {{ color: var(--even); }} .unsure {{ color: var(--unsure); }}
details {{ border-top: 1px solid var(--line); padding: .2rem 0; }} details:last-of-type {{ margin-bottom: 2rem; }}
summary {{ padding: .45rem 0; cursor: pointer; font-weight: 600; }}
footer {{ padding-bottom: 2rem; color: var(--soft); font-size: .8rem; }}
@media {NARROW} {{
  main, nav ul, footer {{ padding: 0 1rem; }} .answer {{ font-size: 1.2rem; }}
  #answer {{ display: flex; flex-direction: column; }} #answer dl {{ order: 1; }} #answer figure {{ margin: 0; }}
  .wide, .arms .less {{ display: none; }} .narrow {{ display: block; }} dl {{ grid-template-columns: 1fr 1fr; }}
  .arms thead {{ display: none; }} .arms, .arms tbody {{ display: block; }}
  .arms tr {{ display: grid; grid-template-columns: 1fr 1fr; border-bottom: 1px solid var(--line); padding: .4rem 0; }}
  .arms td {{ border: 0; padding: .1rem .4rem .1rem 0; min-width: 0; width: auto; }}
  .arms td:first-child {{ font-weight: 650; }} .arms .said {{ order: -1; text-align: right; }}
  .arms td:first-child {{ order: -2; }} .verdict, .keep {{ white-space: normal; }}
}}
@media print {{
  nav {{ display: none; }} body {{ font-size: 11pt; }} .wide-table {{ overflow: visible; }}
  details table {{ font-size: 7pt; }} details th, details td {{ padding: .2rem .25rem; min-width: 0; }}
  details::details-content {{ content-visibility: visible; display: block; height: auto; }}
  details:not([open]) > :not(summary) {{ display: revert; }}
  figure, tr, dl {{ break-inside: avoid; }} h2, h3, summary {{ break-after: avoid; }}
}}
"""
