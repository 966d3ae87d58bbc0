"""Fill the templates of pages: in Markdown every value is escaped as text, in HTML as jinja escapes it."""

import re
from collections.abc import Mapping
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


def build_page(summary: str, figures: Mapping[str, bytes], title: str) -> str:
    """Turn a summary into a page that needs no other file.

    Args:
        summary: The result of `build_summary`.
        figures: SVG files by name, which take the places of the summary's images.
        title: The title of the page.
    """
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.add_render_rule("table_open", lambda *_: '<div class="wide"><table>\n')
    reader.add_render_rule("table_close", lambda *_: "</table></div>\n")
    parts = re.split(r"(?m)^!\[(.*)\]\((\w+)\.png\)$", summary)  # text, description, name, text ...
    content = [Markup(reader.render(parts[0]))]
    for description, name, text_after in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        svg = Markup(_inline_svg(figures[name].decode(), description))
        content += [Markup("<figure>\n{}\n</figure>\n").format(svg), Markup(reader.render(text_after))]
    return render("report/templates/report.html.j2", title=printable(title, keep=""), content=Markup("").join(content))


def _inline_svg(svg: str, description: str) -> str:
    """Return the figure's element alone, as wide as the page."""
    start, rest = svg[svg.index("<svg") :].rstrip().split(">", 1)
    scaled = re.sub(r' (width|height)="[^"]*"', "", start)
    return f'{scaled} role="img" aria-label="{description}">{rest}'
