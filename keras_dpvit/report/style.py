"""The page's style sheet: colours for light and dark, one column on a telephone."""

# Lines: blue, vermilion, green and purple after Okabe and Ito, darkened (or lightened) until each
# has a contrast of 4.5 to its ground: their names are written in them.
STYLE = """
:root { color-scheme: light dark;
  --ground: #f5f6f8; --card: #ffffff; --ink: #1d2228; --faint: #58616b; --rule: #d6dae0;
  --pale: #eef0f3; --right: #6fb1dc; --wrong: #f0a46f; --link: #005a94; --code: #f5f6f8;
  --alert: #fff0e4; --alert-edge: #b84a00; --note: #eaf3fa; --note-edge: #0069a6;
  --c1: #0069a6; --c2: #b84a00; --c3: #00734f; --c4: #96407a; }
@media screen and (prefers-color-scheme: dark) { :root {
  --ground: #101317; --card: #191d23; --ink: #e8ebef; --faint: #a7b0bb; --rule: #363d46;
  --pale: #242a32; --right: #1f6ea6; --wrong: #a1521a; --link: #7cc0f0; --code: #12161b;
  --alert: #33210f; --alert-edge: #f08c45; --note: #13273a; --note-edge: #56b4e9;
  --c1: #56b4e9; --c2: #f08c45; --c3: #2cc295; --c4: #dd8fc4; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main, header, footer { max-width: 1180px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 28px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 0; }
h3 { font-size: 1rem; margin: 24px 0 8px; }
p { margin: 0 0 12px; max-width: 75ch; overflow-wrap: anywhere; }
a { color: var(--link); }
.faint, figcaption, caption { color: var(--faint); }
.small { font-size: .875rem; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 20px; margin: 0 0 20px; }
.heading { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 12px;
  margin-bottom: 12px; }
.badge { font-size: .75rem; border: 1px solid var(--alert-edge); background: var(--alert);
  border-radius: 99px; padding: 1px 10px; }
nav ul { display: flex; flex-wrap: wrap; gap: 4px 18px; list-style: none; padding: 0;
  margin: 0 0 16px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(158px, 1fr)); gap: 12px;
  margin: 18px 0; }
.tile { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 12px 16px; }
.tiles dt { font-size: .875rem; color: var(--faint); }
.tiles dd { margin: 0; font-size: .8125rem; color: var(--faint); }
.tiles dd.value { font-size: 1.7rem; line-height: 1.25; font-weight: 600; color: var(--ink);
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.note { border-left: 4px solid var(--note-edge); background: var(--note); padding: 10px 14px;
  border-radius: 4px; margin: 0 0 16px; }
.note p:last-child { margin: 0; }
.note p, header p { max-width: none; }
table + p, .scroll + p, .sides p.small { margin-top: 10px; }
.sides > :first-child > h3, .sides > * > :first-child > h3 { margin-top: 0; }
.alert { border-color: var(--alert-edge); background: var(--alert); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 310px), 1fr));
  gap: 16px 28px; align-items: start; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .875rem; margin-top: 4px; }
.chart { display: block; width: 100%; max-width: 480px; height: auto; font-size: 11.5px; }
.chart text { fill: var(--faint); paint-order: stroke; stroke: var(--card);
  stroke-width: 3px; stroke-linejoin: round; }
.chart .grid { stroke: var(--rule); } .chart .axis { stroke: var(--faint); }
.chart .limit { stroke: var(--faint); stroke-dasharray: 5 4; }
.chart .gap { stroke: var(--c1); stroke-width: 1.5; }
.chart .line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke: var(--c); }
.chart .line-ink.line { stroke-width: 3; }
.chart .dot { fill: var(--c); fill-opacity: .8; }
.chart .name { fill: var(--c); font-weight: 600; }
.line-1 { --c: var(--c1); } .line-2 { --c: var(--c2); } .line-3 { --c: var(--c3); }
.line-4 { --c: var(--c4); } .line-ink { --c: var(--ink); }
.scroll { overflow-x: auto; max-width: 100%; }
.scroll:focus-visible, a:focus-visible, summary:focus-visible { outline: 2px solid var(--link);
  outline-offset: 2px; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-size: .875rem; padding-bottom: 6px; }
th, td { padding: 5px 10px; border-bottom: 1px solid var(--rule); text-align: left;
  vertical-align: top; }
th { font-weight: 600; }
tbody th { font-weight: 500; }
th:first-child { padding-left: 0; }
.figures td, .figures thead th:not(:first-child) { text-align: right; }
.words td { overflow-wrap: anywhere; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr));
  gap: 24px 36px; align-items: start; }
.sides > * { min-width: 0; }
.confusion { border-collapse: separate; border-spacing: 2px; }
.confusion th, .confusion td { border: 0; padding: 3px 5px; font-size: .8125rem; }
.confusion thead th { vertical-align: bottom; text-align: left; }
.confusion thead span { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 9em;
  line-height: 1.1; }
.confusion.upright thead span { writing-mode: horizontal-tb; transform: none; }
.confusion.upright thead th { text-align: center; }
.confusion tbody th { text-align: right; }
.confusion td { text-align: center; min-width: 25px; background: var(--pale); border-radius: 3px; }
.confusion td.right { background: color-mix(in srgb, var(--right) var(--share), var(--pale)); }
.confusion td.wrong { background: color-mix(in srgb, var(--wrong) var(--share), var(--pale)); }
.confusion td.corner { background: none; }
.confusion td.none { color: var(--faint); }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 258px), 1fr));
  gap: 16px; list-style: none; margin: 0; padding: 0; }
.samples > li { border: 1px solid var(--rule); border-radius: 8px; padding: 12px; min-width: 0; }
.sample-head { display: flex; gap: 12px; margin-bottom: 8px; }
.sample-head img { width: 84px; height: 84px; object-fit: contain; image-rendering: pixelated;
  background: #000; border-radius: 4px; flex: none; }
.sample-head p { margin: 0; font-size: .875rem; }
.samples table { width: 100%; font-size: .8125rem; }
.samples caption { position: absolute; width: 1px; height: 1px; overflow: hidden;
  clip-path: inset(50%); white-space: nowrap; }
.samples table { position: relative; }
.samples th, .samples td { padding: 2px 4px; overflow-wrap: anywhere; }
.verdict { font-weight: 600; }
.verdict.bad { color: var(--c2); } .verdict.good { color: var(--c3); }
.truth { text-decoration: underline; text-underline-offset: 3px; }
.sheet { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
.statement { background: var(--code); border-radius: 6px; padding: 14px 16px; }
.statement p { max-width: 90ch; } .statement ul { margin: 0; padding-left: 20px; }
details { margin: 12px 0 0; } summary { cursor: pointer; font-weight: 600; }
code { font-size: .9em; overflow-wrap: anywhere; }
footer { padding-bottom: 40px; color: var(--faint); font-size: .875rem; }
@media (max-width: 1000px) { .sheet { max-width: none; } }
@media (max-width: 560px) {
  main, header, footer { padding-left: 12px; padding-right: 12px; }
  section { padding: 14px 12px; } .tiles { grid-template-columns: 1fr 1fr; gap: 8px; }
  .tile { padding: 10px 12px; } .tiles dd.value { font-size: 1.4rem; }
  .confusion { border-spacing: 1px; } .confusion th, .confusion td { padding: 2px 1px;
  font-size: .6875rem; } .confusion td { min-width: 22px; } .confusion tbody th { max-width: 66px; }
  th, td { padding: 5px 6px; }
  .figures th, .figures td { padding-left: 3px; padding-right: 3px; font-size: .8125rem; } }
@media print { section, .tile { break-inside: avoid; } nav { display: none; } }
"""
