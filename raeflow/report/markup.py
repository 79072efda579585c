"""Small pieces of HTML, and the style sheet of the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CSS = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5a6470; --page: #ffffff; --line: #d9dee4; --box: #f4f6f8; --mark: #2b7fc4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --soft: #9aa4b0; --page: #14171a; --line: #333a42; --box: #1d2226; --mark: #6ab0ea; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 62rem; color: var(--ink); background: var(--page);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { margin: .5rem 0; max-width: 46rem; }
.soft, figcaption, caption { color: var(--soft); font-size: .88rem; }
.lead { font-size: 1.08rem; }
figure { margin: 1rem 0; }
figure svg { display: block; }
figcaption { max-width: 46rem; margin-top: .25rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .6rem; margin: 1rem 0;
  padding: 0; list-style: none; }
.figures li { background: var(--box); border-radius: .5rem; padding: .6rem .8rem; }
.figures b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; line-height: 1.25; }
.figures span { color: var(--soft); font-size: .85rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .75rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .25rem; }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; }
thead th { white-space: nowrap; }
.number { text-align: right; white-space: nowrap; }
pre { background: var(--box); border-radius: .5rem; padding: .75rem 1rem; overflow-x: auto; font-size: .85rem; line-height: 1.45; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
details summary { cursor: pointer; color: var(--mark); margin: .5rem 0; }
@media print {
  :root { --ink: #000; --soft: #444; --page: #fff; --line: #bbb; --box: #f3f3f3; }
  body { padding: 0; max-width: none; font-size: 11pt; }
  h2 { break-after: avoid; } figure, table, pre, .figures li { break-inside: avoid; }
  .wide { overflow: visible; } pre { white-space: pre-wrap; }
}
"""


def page(title: str, sections: Sequence[str]) -> str:
    """A whole document that asks nothing of the network."""
    body = "\n".join(s for s in sections if s)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{CSS}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A heading and what stands below it; nothing where nothing does."""
    body = "\n".join(p for p in parts if p)
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>" if body else ""


def paragraph(text: str, kind: str = "") -> str:
    """Text of class `kind`."""
    return f"<p{f' class={kind}' if kind else ''}>{escape(text)}</p>"


def picture(figure: Figure, said: str, caption: str = "") -> str:
    """A figure with a description for those who cannot see it."""
    from raeflow.report.plots import svg

    below = f"\n<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure role="img" aria-label="{escape(said, quote=True)}">\n{svg(figure)}{below}\n</figure>'


def tiles(values: Sequence[tuple[str, str]]) -> str:
    """Large figures, each with what it is."""
    items = "".join(f"<li><b>{escape(value)}</b><span>{escape(name)}</span></li>" for name, value in values)
    return f'<ul class="figures">{items}</ul>'


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "", numbers: Sequence[int] = ()) -> str:
    """A table with a header; columns in `numbers` are set flush right."""

    def cells(tag: str, values: Sequence[str], scope: str = "") -> str:
        return "".join(f"<{tag}{scope}{' class=number' if i in numbers else ''}>{escape(v)}</{tag}>" for i, v in enumerate(values))

    top = f"<caption>{escape(caption)}</caption>" if caption else ""
    body = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    head = f"<thead><tr>{cells('th', heads, ' scope=col')}</tr></thead>"
    return f'<div class="wide"><table>{top}{head}<tbody>\n{body}\n</tbody></table></div>'


def pairs(values: Sequence[tuple[str, str]], caption: str = "") -> str:
    """A table of names and values."""
    top = f"<caption>{escape(caption)}</caption>" if caption else ""
    rows = "\n".join(f"<tr><th scope=row>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in values)
    return f'<div class="wide"><table>{top}<tbody>\n{rows}\n</tbody></table></div>'


def folded(summary: str, inside: str) -> str:
    """What opens at a click."""
    return f"<details><summary>{escape(summary)}</summary>\n{inside}\n</details>"


def commands(lines: str) -> str:
    """Lines for a shell."""
    return f"<pre><code>{escape(lines)}</code></pre>"
