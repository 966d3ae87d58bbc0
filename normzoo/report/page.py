"""report.html: the summary as one page that needs no other file, its figure drawn in it."""

import html
import re
from collections.abc import Iterator, Sequence
from itertools import groupby

_STYLE = """
:root { color-scheme: light }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a;
  background: #fff }
h1 { font-size: 1.6rem } h2 { font-size: 1.25rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem }
figure { margin: 1.5rem 0 } figure svg { width: 100%; height: auto }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .4rem 0 1rem }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #e4e4e4; vertical-align: top }
th { border-bottom: 2px solid #999; white-space: nowrap }
th:first-child { text-align: left }
.figures td + td, .figures th + th { text-align: right; white-space: nowrap }
.words td, .words th { text-align: left }
code { font: .92em ui-monospace, monospace; background: #f3f3f3; padding: 0 .25em; border-radius: 3px }
li { overflow-wrap: anywhere }
"""


def build_page(summary: str, svg: bytes, title: str) -> str:
    """The page of a summary.

    Args:
        summary: What `build_summary` made.
        svg: Of the figure, which stands where the summary shows one.
        title: Of the page.
    """
    body = "\n".join(_blocks(summary, _inline_svg(svg.decode())))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _inline_svg(svg: str) -> str:
    """The figure's element alone, without the head of a file of its own, and as wide as the page."""
    element = svg[svg.index("<svg") :].rstrip()
    start, rest = element.split(">", 1)
    scaled = re.sub(r' (width|height)="[^"]*"', "", start)
    return f'{scaled} role="img" aria-label="Validation error, as in the tables below">{rest}'


def _blocks(text: str, figure: str) -> Iterator[str]:
    """The markdown that the summary is made of: headings, lists, tables, paragraphs and one picture."""
    for kind, group in groupby(text.splitlines(), _kind):
        lines = list(group)
        if kind == "heading":
            for line in lines:
                level = len(line) - len(line.lstrip("#"))
                yield f"<h{level}>{_words(line[level + 1 :])}</h{level}>"
        elif kind == "list":
            yield "<ul>\n" + "\n".join(f"<li>{_words(line[2:])}</li>" for line in lines) + "\n</ul>"
        elif kind == "table":
            yield _table(lines)
        elif kind == "picture":
            yield f"<figure>\n{figure}\n</figure>"
        elif kind == "words":
            yield f"<p>{_words(' '.join(lines))}</p>"


def _kind(line: str) -> str:
    starts = {"#": "heading", "- ": "list", "|": "table", "![": "picture"}
    return next((kind for start, kind in starts.items() if line.startswith(start)), "words" if line else "")


def _table(lines: Sequence[str]) -> str:
    """A table: figures stand right, words left, as the line below its head has it."""
    head, ruler, *body = (re.split(r"(?<!\\)\|", line)[1:-1] for line in lines)
    kind = "figures" if any(cell.strip().endswith(":") for cell in ruler) else "words"
    top = "".join(f'<th scope="col">{_words(cell.strip())}</th>' for cell in head)
    rows = ("".join(f"<td>{_words(cell.strip())}</td>" for cell in row) for row in body)
    inner = f"<thead><tr>{top}</tr></thead>\n<tbody>\n" + "\n".join(f"<tr>{row}</tr>" for row in rows) + "\n</tbody>"
    return f'<div class="wide"><table class="{kind}">\n{inner}\n</table></div>'


def _words(text: str) -> str:
    escaped = html.escape(text.replace("\\|", "|"), quote=False)
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped))
