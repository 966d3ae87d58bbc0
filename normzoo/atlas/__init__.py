"""The atlas: every registered norm as a card of one page that needs no network, with an experiment to play with."""

import inspect
import json
import os
import re
import textwrap
import tomllib
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from normzoo.atlas.facts import defaults, facts
from normzoo.errors import UserError
from normzoo.files import write_atomic
from normzoo.norm_info import NormInfo

HERE = files(__name__)


def write(file: str | os.PathLike[str], norms: Iterable[NormInfo], scores: dict[str, Any] | None = None) -> None:
    """Write the page of these norms, and print the name of its file.

    Raises:
        UserError: If jinja2 is missing, or the file cannot be written.
    """
    try:
        print(write_atomic(file, page(norms, scores)))
    except ModuleNotFoundError as error:
        raise UserError(f"the atlas needs {error.name}: pip install 'normzoo[sweep]'") from error


def page(norms: Iterable[NormInfo], scores: dict[str, Any] | None = None, costs: dict[str, Any] | None = None) -> str:
    """Return the page of these norms: cards, filters, comparison and family tree; of all, with the experiment.

    Args:
        norms: What to show; a single one gives the page of one card.
        scores: Of a sweep, as `read_scores` returns them; by default those that ship.
        costs: As `normzoo bench layers --json` writes them; by default those that ship.
    """
    from jinja2 import Environment, StrictUndefined  # not needed by `normzoo show`, which takes the facts from here

    scores = scores or json.loads((HERE / "scores.json").read_text("utf-8"))
    costs = costs or json.loads((files("normzoo.bench") / "measured" / "cpu.json").read_text("utf-8"))
    cards = [_card(norm, scores, costs) for norm in norms]
    environment = Environment(undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((HERE / "atlas.html.j2").read_text("utf-8"))
    return template.render(
        cards=cards,
        tree=_tree(cards),
        scores=scores,
        machine=costs["machine"] | {"date": costs["date"]},
        css=(HERE / "atlas.css").read_text("utf-8"),
        js=(HERE / "atlas.js").read_text("utf-8"),
    )


def _card(norm: NormInfo, scores: dict[str, Any], costs: dict[str, Any]) -> dict[str, Any]:
    from normzoo.atlas import equation, picture

    docstring = inspect.getdoc(norm.build) or ""
    years = re.findall(r"\b(?:19|20)\d\d\b", norm.paper)
    notes = tomllib.loads((HERE / "notes.toml").read_text("utf-8")).get(norm.name, {})
    arguments = dict(defaults(norm))
    meanings = {"device": "As in torch.", "dtype": "As in torch."} | _arguments(docstring)
    stated = facts(norm)
    return {
        "norm": norm,
        "notes": notes,
        "year": int(max(years)) if years else None,
        "papers": [_paper(paper) for paper in norm.paper.split("; ") if paper],
        "equation": equation.mathml(equation.of(docstring)),
        "pictures": picture.draw(norm),
        "options": picture.options(norm),
        "facts": {title: stated[title] for title in stated if title not in ("arguments", "paper", "aliases", "file")},
        "arguments": [(name, default, meanings.get(name, "")) for name, default in arguments.items()],
        "aliases": stated["aliases"],
        "costs": [row for row in costs["rows"] if row["norm"].partition(",")[0] == norm.name and row["milliseconds"]],
        "scores": [row for row in scores["rows"] if row["norm"] == norm.name],
    }


def _arguments(docstring: str) -> dict[str, str]:
    """Return what the section Args of a docstring says of each argument."""
    section = re.split(r"\n\n|\Z", docstring.partition("\nArgs:\n")[2])[0]
    found = re.findall(r"^(\w+): (.*(?:\n .*)*)", textwrap.dedent(section), re.MULTILINE)
    return {name: re.sub(r"\s+", " ", meaning).replace("`", "") for name, meaning in found}


def _paper(paper: str) -> tuple[str, str]:
    number = re.search(r"arXiv:(\d{4}\.\d{4,5})", paper)
    return paper, f"https://arxiv.org/abs/{number[1]}" if number else ""


def _tree(cards: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the norms with a year in the order of a family tree, each with its place and that of its parent."""
    dated = {card["norm"].name: card for card in cards if card["year"]}
    parents = {name: card["notes"].get("parent") or "" for name, card in dated.items()}
    first = min((card["year"] for card in dated.values()), default=0)
    rows: list[dict[str, Any]] = []

    def add(above: dict[str, Any] | None) -> None:
        children = [
            name
            for name, parent in parents.items()
            if (parent if parent in dated else "") == (above or {"name": ""})["name"]
        ]
        for name in sorted(children, key=lambda name: (dated[name]["year"], name)):
            x = (dated[name]["year"] - first) * 56 + 20
            row = {"name": name, "year": dated[name]["year"], "y": len(rows) * 22 + 40, "above": above}
            rows.append(row | {"x": max(x, above["x"] + 14) if above else x})
            add(rows[-1])

    add(None)
    return rows
