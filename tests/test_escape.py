"""Text from anywhere, as each medium takes it."""

import io
import logging
import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from normzoo.commands.broken_pipe import to_any_reader
from normzoo.errors import UserError
from normzoo.sweep.claims_manifest import ClaimCells, read_claims, write_claims
from normzoo.text import bounded, code, csv_cell, displayable, markdown, printable

# What has a meaning in Markdown, HTML, mathtext, a shell, a spreadsheet or a terminal, and some that has none.
CHARACTERS = "\\`*_[]()<>&$~#+-.!|=:;'\"{}^@%/ \t\n\r\0\x1b\x9b\u2028\u202e\ud800\udcffaZ0é字"


def texts(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(CHARACTERS, k=rng.randint(0, 12))) for _ in range(count)]


def test_printable_text_can_be_written_anywhere_and_stays_as_it_is_from_then_on() -> None:
    for text in texts(2000):
        shown = printable(text, keep="")
        assert shown.encode().decode() == shown
        assert shown.isprintable()
        assert printable(shown) == shown
    assert printable("a\nb\x1b[1m \udcff \ud800 \u2028 é") == "a\nb\\x1b[1m \\xff \\ud800 \\u2028 é"


@pytest.mark.parametrize(
    "place", ["{}", "- {}", "## {}", "words {} words", "**{}**", "| a |\n| --- |\n| {} |", "[{}](#a)"]
)
@pytest.mark.parametrize("write", [markdown, code])
def test_markdown_shows_every_text_as_it_is(place: str, write: Any) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    reader = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    for text in texts(300):
        written = write(text.strip()).replace("|", "\\|") if place.startswith("|") else write(text.strip())
        html = reader.render(place.format(f"x{written}x" if place == "**{}**" else written))
        shown = re.sub(r"<[^>]*>", "", html)
        for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
            shown = shown.replace(entity, character)
        wanted = printable(text.strip(), keep="")
        assert re.sub(r"\s+", " ", wanted).strip() in re.sub(r"\s+", " ", shown), (text, place, html)
        assert not re.search(r"<(em|s|del|img|script|br|a(?! href=\"#a\"))\b", html), (text, place, html)


def test_a_spreadsheet_runs_no_text_and_numbers_stay_numbers() -> None:
    for text in ("=1", "+a", "-a", "@a", " =1", "\t=1", "＝1"):
        assert csv_cell(text) == f"'{text}"
    for value in (-1, -0.5, None, True, "", "-0.5", "+1e3", "a=1", "-inf"):
        assert csv_cell(value) is value


def test_bounded_text_has_its_beginning_its_end_and_its_length() -> None:
    assert bounded("x" * 50, 50) == "x" * 50
    short = bounded("begin" + "x" * 10**6 + "end", 200)
    assert len(short) == 200
    assert short.startswith("beginx")
    assert short.endswith("xend")
    assert "1,000,008 characters" in short
    assert bounded(short, 200) == short


def test_what_is_displayed_is_as_it_was_where_it_can_be() -> None:
    value = {"a": [1, 2.5, None, True, "x", {"b": "é"}]}
    assert displayable(value) == value
    assert displayable({"a\n": float("inf"), "b": 10**400, "c": "\x1b"})["a\\n"] == "inf"
    assert displayable(displayable({"a\n": "\udcff" * 1000})) == displayable({"a\n": "\udcff" * 1000})


class Terminal(io.TextIOWrapper):
    """A terminal of few characters."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)

    @property
    def shown(self) -> str:
        self.flush()
        written: bytes = self.buffer.getvalue()  # type: ignore[attr-defined]
        return written.decode(self.encoding)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_a_terminal_shows_what_it_can(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    with to_any_reader():
        print("8.0 ± 0.1 – 字 \udcff")
    assert out.shown.startswith("8.0 ")
    assert out.shown.endswith("\n")
    assert "\\udcff" in out.shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_report_on_such_a_terminal_ends_as_on_any_other(
    encoding: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    from normzoo.cli import main
    from normzoo.results import CellResult, write_result

    folder = tmp_path / "größe – \x1b[2J"
    for seed in range(2):
        config = {"seed": seed, "norm": {"name": "字"}, "model": {"name": "ü"}, "data": {"name": "–"}}
        write_result(folder / f"{seed}", CellResult(cell=str(seed), status="ok", config=config, seed=seed,
                                                    metrics={"val_error_running": 8.0 + seed}))  # fmt: skip
    out = Terminal(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    main(["report", str(folder)])
    assert "report.html" in out.shown
    assert "\x1b" not in out.shown
    err = Terminal(encoding)
    monkeypatch.setattr(sys, "stderr", err)
    with pytest.raises(SystemExit) as ended:
        main(["report", str(tmp_path / "字\x1b[2J")])
    assert ended.value.code == 2
    assert "is not a folder" in err.shown
    assert "\x1b" not in err.shown


def test_what_is_logged_reaches_no_terminal_as_an_escape(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "normzoo"):
        logging.getLogger("normzoo").info("refused: %s", "\x1b]0;x\x07\udcff")
    assert caplog.messages == ["refused: \\x1b]0;x\\x07\\xff"]


def test_a_list_of_claims_may_have_any_text_and_no_command_but_ours(tmp_path: Path) -> None:
    text = "<script>\udcff\x1b"
    command = "normzoo claims 'a=$(rm)'"
    write_claims(tmp_path, [ClaimCells("a", text, text, ("c",), "quick", command)])
    write_claims(tmp_path, [ClaimCells("b", "s", "s", ("c",), command="curl evil | sh")])
    first, second = read_claims(tmp_path)
    assert (first.statement, first.command) == ("<script>\\xff\\x1b", command)
    assert second.command == ""
    write_claims(tmp_path, [ClaimCells("c", "s", "s", ("c",), command="normzoo train 'cut")])
    assert read_claims(tmp_path)[-1].command == ""  # it cannot be typed again, and the claim is kept


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "1", '{"a": 1}', '{"a": {"statement": 1, "source": "", "cells": [], "grids": ""}}',
     '{"a": {"statement": "", "source": "", "cells": ["../x"], "grids": ""}}',
     '{"a": {"statement": "", "source": "", "cells": [1], "grids": ""}}',
     "[" * 100_000],
)  # fmt: skip
def test_a_list_of_claims_that_is_none_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "claims.json").write_text(content)
    with pytest.raises(UserError, match=r"claims\.json is corrupt"):
        read_claims(tmp_path)
