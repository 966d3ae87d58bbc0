"""Fill the templates of pages: in Markdown every value is escaped as words, in HTML as jinja escapes it."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from normzoo import text


def render(template: str, **values: Any) -> str:
    """Fill a template of the package, named by its path, with values from anywhere."""
    return _environment(template.endswith(".md.j2")).get_template(template).render(values).rstrip() + "\n"


def code(value: object) -> Markup:
    """Mark a value as code of Markdown, or as words where code cannot show it."""
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
    """Escape a value as words of Markdown, unless that is done."""
    return value if isinstance(value, Markup) else Markup(text.markdown(str(value)))
