"""The HTML that the pages share: one self-contained document, escaped text, images inside."""

import base64
import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spaars.data.files import atomic_write
from spaars.report.records import plain

STYLE = """\
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #5c5c5c; --line: #d9d9d9;
  --paper: #ffffff; --shade: #f4f4f4; --warn: #fff3d6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --soft: #a8a8a8; --line: #444444;
  --paper: #161616; --shade: #232323; --warn: #43360f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 44rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.3rem; margin: 0.5rem 0; } h2 { font-size: 1.1rem; margin: 2.2rem 0 0.5rem; }
h3 { font-size: 1rem; margin: 0; }
.headline { font-size: 1.15rem; font-weight: 600; }
.note { background: var(--warn); padding: 0.6rem 0.8rem; border-radius: 6px; }
.soft, small, figcaption { color: var(--soft); } small { display: block; font-weight: 400; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 0.3rem 0.6rem 0.3rem 0;
  border-bottom: 1px solid var(--line); }
.seeds td, .seeds thead th + th { text-align: right; white-space: nowrap; }
.seeds tbody th, .seeds thead th:first-child { position: sticky; left: 0; min-width: 8rem;
  background: var(--paper); overflow-wrap: normal; }
.seeds th { line-height: 1.25; } .seeds small { font-size: 0.8rem; }
.events td:nth-child(-n+2), .events th { white-space: nowrap; }
@media (max-width: 30rem) { .seeds { font-size: 0.9rem; } .seeds tbody th { min-width: 6.5rem; }
  .seeds th, .seeds td { padding-right: 0.35rem; } }
.settings { font: 0.85rem/1.4 ui-monospace, monospace; }
.settings th { font-weight: 400; color: var(--soft); width: 50%; }
figure { margin: 1.5rem 0 0; break-inside: avoid; }
img { display: block; width: 100%; max-width: 36rem; height: auto; margin: 0.4rem 0;
  background: #ffffff; border-radius: 6px; }
pre { background: var(--shade); padding: 0.6rem 0.8rem; border-radius: 6px;
  white-space: pre-wrap; }
tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
@media print { :root { --ink: #000000; --soft: #444444; --line: #bbbbbb; --paper: #ffffff;
  --shade: #f4f4f4; --warn: #f4f4f4; } body { max-width: none; padding: 0; font-size: 10pt; }
  img { max-width: 12cm; } .wide { overflow: visible; } }
"""


def document(title: str, body: str, style: str = "") -> str:
    """A whole page. `body` and `style`, which is added to the shared one, are HTML and CSS.

    The policy forbids the page to fetch or run anything, whatever slipped into it.
    """
    return f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{STYLE}{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def figure_element(name: str, title: str, image: bytes, caption: str) -> str:
    """A PNG inside the page, with a heading above and a caption below."""
    data = base64.b64encode(image).decode("ascii")
    return (
        f'<figure id="{escape(name)}"><h3>{escape(title)}</h3>\n'
        f'<img alt="{escape(title)}" src="data:image/png;base64,{data}">\n'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def escape(value: object) -> str:
    """As text of an element or of a quoted attribute."""
    return html.escape(str(value), quote=True)


def show_number(value: float | None, form: str) -> str:
    """A number as people read it; the element's value attribute keeps all its digits."""
    if value is None:
        return "-"
    words = duration(value) if form == "duration" else f"{value:{form}}"
    # A NumPy float's repr is np.float64(0.85), which no reader of HTML takes for a number.
    return f'<data value="{float(value)!r}">{words}</data>'


def duration(seconds: float) -> str:
    if seconds < 60.0:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6_000.0 else f"{seconds / 3600:.1f} h"


def settings_table(items: Iterator[tuple[str, Any]] | list[tuple[str, Any]]) -> str:
    rows = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(plain(value))}</td></tr>'
        for name, value in items
    )
    return f'<table class="settings"><tbody>\n{rows}\n</tbody></table>'


def write_file(path: Path, content: bytes) -> Path:
    """Readers see the old file or the new one, never half of one."""
    with atomic_write(path) as file:
        file.write(content)
    return path
