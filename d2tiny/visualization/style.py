"""Style sheet that all HTML pages share."""

__all__ = ["STYLE"]

STYLE = """
:root { --ink: #1f2933; --soft: #66727f; --line: #e2e7ec; --paper: #fff; --back: #f4f6f8; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
header { background: #17222e; color: #fff; padding: 28px max(24px, calc(50vw - 576px)); }
header h1 { margin: 0 0 4px; font-size: 24px; font-weight: 650; }
header p { margin: 0; color: #b8c4d0; }
main { max-width: 1200px; margin: 0 auto; padding: 20px 24px 60px; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 20px 24px;
  margin: 18px 0; overflow-x: auto; }
h2 { margin: 0 0 6px; font-size: 18px; }
section > p { margin: 0 0 14px; color: var(--soft); max-width: 90ch; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 18px 0; }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 10px 18px;
  min-width: 104px; }
.card b { display: block; font-size: 24px; font-weight: 650; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: 13px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 8px 0 14px; }
th, td { padding: 5px 12px; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; font-size: 13px; }
th:first-child, td:first-child { text-align: left; }
.row { display: flex; flex-wrap: wrap; gap: 18px; align-items: flex-start; }
.row > figure { flex: 1 1 340px; }
figure { margin: 0 0 10px; }
figure svg { max-width: 100%; height: auto; }
figure img { max-width: 100%; border-radius: 6px; display: block; image-rendering: auto; }
figcaption { color: var(--soft); font-size: 13px; margin-top: 4px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(520px, 100%), 1fr)); gap: 18px; }
.legend i { display: inline-block; width: 12px; height: 12px; border: 2px solid; margin: 0 5px 0 14px;
  vertical-align: -1px; }
iframe { width: 100%; height: 70vh; min-height: 420px; max-height: 820px;
  border: 1px solid var(--line); border-radius: 6px; }
pre { background: var(--back); border-radius: 6px; padding: 10px 14px; margin: 0 0 14px; overflow-x: auto; }
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""
