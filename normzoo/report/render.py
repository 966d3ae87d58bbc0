"""Fill the templates of pages: in Markdown every value is escaped as text, in HTML as jinja escapes it."""

import re
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from normzoo import text
from normzoo.text import printable


def render(template: str, **values: Any) -> str:
    """Fill a template of the package, given by its path, with values from anywhere."""
    return _environment(template.endswith(".md.j2")).get_template(template).render(values).rstrip() + "\n"


def code(value: object) -> Markup:
    """Write a value as code of Markdown, or as escaped text if code cannot show it."""
    return Markup(text.code(str(value)))


@cache
def _environment(is_markdown: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("normzoo", ""),
        undefined=StrictUndefined,
        autoescape=True,  # as HTML; what `words` returns is escaped already
        finalize=words if is_markdown else None,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"code": code, "cell": lambda value: Markup(str(words(value)).replace("|", "\\|"))}
    return environment


def words(value: object) -> Markup:
    """Escape a value as text of Markdown, unless it is escaped already."""
    return value if isinstance(value, Markup) else Markup(text.markdown(str(value)))


def build_page(summary: str, svg: bytes, title: str) -> str:
    """Turn a summary into a page that needs no other file.

    Args:
        summary: The result of `build_summary`.
        svg: The figure, which takes the place of the summary's image.
        title: The title of the page.
    """
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.add_render_rule("table_open", lambda *_: '<div class="wide"><table>\n')
    reader.add_render_rule("table_close", lambda *_: "</table></div>\n")
    before, after = (Markup(reader.render(part)) for part in re.split(r"(?m)^!\[.*\)$", summary, maxsplit=1))
    figure = Markup(_inline_svg(svg.decode()))
    title = printable(title, keep="")
    return render("report/templates/report.html.j2", title=title, before=before, figure=figure, after=after)


def _inline_svg(svg: str) -> str:
    """Return the figure's element alone, as wide as the page."""
    start, rest = svg[svg.index("<svg") :].rstrip().split(">", 1)
    scaled = re.sub(r' (width|height)="[^"]*"', "", start)
    return f'{scaled} role="img" aria-label="Validation error, as in the tables below">{rest}'
