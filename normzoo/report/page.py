"""report.html: the summary as one page that needs no other file, its figure drawn in it."""

import html
import re

from normzoo.text import printable

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
th { text-align: left } td[style] { white-space: nowrap }
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
    from markdown_it import MarkdownIt

    words = MarkdownIt("commonmark", {"html": False}).enable("table")
    words.add_render_rule("table_open", lambda *_: '<div class="wide"><table>\n')
    words.add_render_rule("table_close", lambda *_: "</table></div>\n")
    before, after = re.split(r"(?m)^!\[.*\)$", summary, maxsplit=1)
    body = words.render(before) + f"<figure>\n{_inline_svg(svg.decode())}\n</figure>\n" + words.render(after)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(printable(title, keep=''))}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _inline_svg(svg: str) -> str:
    """The figure's element alone, without the head of a file of its own, and as wide as the page."""
    element = svg[svg.index("<svg") :].rstrip()
    start, rest = element.split(">", 1)
    scaled = re.sub(r' (width|height)="[^"]*"', "", start)
    return f'{scaled} role="img" aria-label="Validation error, as in the tables below">{rest}'
