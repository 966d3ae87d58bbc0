"""report.html: the summary as one page that needs no other file, its figure drawn in it."""

import re

from markupsafe import Markup

from normzoo.report.render import render
from normzoo.text import printable


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
    before, after = (Markup(words.render(part)) for part in re.split(r"(?m)^!\[.*\)$", summary, maxsplit=1))
    figure = Markup(_inline_svg(svg.decode()))
    title = printable(title, keep="")
    return render("report/templates/report.html.j2", title=title, before=before, figure=figure, after=after)


def _inline_svg(svg: str) -> str:
    """The figure's element alone, without the head of a file of its own, and as wide as the page."""
    element = svg[svg.index("<svg") :].rstrip()
    start, rest = element.split(">", 1)
    scaled = re.sub(r' (width|height)="[^"]*"', "", start)
    return f'{scaled} role="img" aria-label="Validation error, as in the tables below">{rest}'
