"""Names, messages and numbers from anywhere: a report shows them all, and none of them acts."""

import copy
import csv
import json
import random
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from normzoo.report import report
from normzoo.results import FILE_NAME, SCHEMA, CellResult, record_text, write_result

Maker = Callable[..., CellResult]

HOSTILE = {
    "bytes that are no UTF-8": b"caf\xe9".decode(errors="surrogateescape"),
    "a lone surrogate": "\ud800x",
    "a formula of mathtext": r"$\frac{a$",
    "two dollars": "$x_{$ and $^$",
    "lines": "a\nb\r\nc\u2028d\x85e",
    "a bar": "a|b",
    "backticks": "`a``b`",
    "HTML": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "a comment's end": "--><script>x</script><!--",
    "Markdown": "**a** [x](javascript:alert(1)) ![y](z) # h _e_ ~~s~~ &lt;",
    "a heading": "# a",
    "a list": "1. a",
    "escapes of a terminal": "\x1b]0;title\x07\x1b[2J\x9b31m",
    "text from right to left": "a\u202eb",
    "zero": "a\0b",
    "a formula of a spreadsheet": "=HYPERLINK(\"http://x\")",
    "another": "+1+cmd|'/c calc'!A1",
    "a minus": "-2+3",
    "an at sign": "@SUM(1)",
    "a tab": "\t=1",
    "an underscore": "_a",
    "nothing": "",
    "blanks": "   ",
    "braces": "{} {0} %s %",
    "quotes": "\"'",
    "backslashes": "a\\|b\\",
    "much": "x" * 100_000,
    "emoji": "👩‍🔬" * 3,
}  # fmt: skip


def hostile_cell(cell: Maker, text: str, seed: int, **options: Any) -> CellResult:
    """A record with `text` wherever a record has text."""
    made = cell("batch_norm", 8, seed, **options)
    config: Any = copy.deepcopy(made.config)
    for group in ("norm", "placement", "model", "data", "optimizer", "trainer"):
        config[group]["name"] = text
        config[group][text] = [text]
    made.config, made.cell = config, f"{text}{seed}"
    made.device, made.versions = {"name": text, "type": text}, {text: text, "torch": text}
    made.time["started"] = text
    made.reason = text
    made.metrics[text] = 1.0
    made.values_per_statistic = {text: 4}
    return made


@pytest.fixture
def reported(tmp_path: Path, cell: Maker) -> Callable[[list[str]], tuple[Path, str]]:
    """Make a report on cells with hostile texts; its folder and what is printed."""

    def make(texts: list[str]) -> tuple[Path, str]:
        name = texts[0][:20].replace("/", "").replace("\0", "").replace("\ud800", "")
        root = tmp_path / f"sweep {name}"
        for number, (text, status) in enumerate(product(texts, ("ok", "ok", "error", "refused", "diverged"))):
            write_result(root / f"c{number}", hostile_cell(cell, text, number % 5, status=status))
        write_result(root / "plain", cell("batch_norm", 8, 9))
        (root / "spoilt").mkdir()
        (root / "spoilt" / FILE_NAME).write_bytes(b"{")
        return root, report(root, width=100).text

    return make


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("first", [*range(5), "$x_{$ and $^$"])
def test_any_text_is_reported_and_does_not_act(
    first: int | str, reported: Callable[[list[str]], tuple[Path, str]]
) -> None:
    from markdown_it import MarkdownIt

    root, printed = reported([*HOSTILE.values()][first::5] if isinstance(first, int) else [first])
    summary, page, rows = ((root / file).read_text() for file in ("summary.md", "report.html", "results.csv"))
    printed.encode()
    for shown in (printed, summary, page, rows):
        assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u202e\ud800-\udfff]", shown)
        assert len(shown) < 2_000_000
    # As the laxest reader of Markdown has it, which takes HTML as well.
    read = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(summary)
    for html in (read, page):
        assert not re.search(r"<(script|s|em|a|b)\b|<img (?!src=\"(small_batch|errors)\.png)|onerror=[^&]*>", html)
    assert summary.count("\n## ") == page.count("<h2>")
    table = list(csv.reader(rows.splitlines()))
    assert len({len(line) for line in table}) == 1
    for line in table:
        assert not [one for one in line if re.match(r"\s*[=+@\-\t]", one) and not re.fullmatch(r"-?[\d.e+-]+", one)]


def test_numbers_stay_numbers_in_the_table(tmp_path: Path, cell: Maker) -> None:
    made = cell("batch_norm", 8, 0, config={"shift": -0.5, "text": "-0.25", "name": "-a"})
    other = cell("batch_norm", 8, 1, config={"shift": 0.5, "text": "+1e-3", "name": "a"})
    made.metrics["gap"] = -3.25
    for one in (made, other):
        write_result(tmp_path / one.cell, one)
    report(tmp_path)
    with (tmp_path / "results.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (first["gap"], first["shift"], first["text"], first["name"]) == ("-3.25", "-0.5", '"-0.25"', "'-a")
    assert (second["shift"], second["text"], second["name"]) == ("0.5", "+1e-3", "a")


def test_a_message_of_50_megabytes_makes_no_large_files(tmp_path: Path, cell: Maker) -> None:
    made = cell("batch_norm", 8, 0, status="error", reason="first words " + "x" * 50_000_000 + " the end")
    write_result(tmp_path / "a", made)
    record = (tmp_path / "a" / FILE_NAME).read_text()
    assert len(record) < 10_000
    assert "first words" in record
    assert "the end" in record
    assert "50,000,020 characters" in record
    # One that another program has written.
    foreign = json.loads(record) | {"reason": "y" * 5_000_000, "config": {**made.config, "note": "z" * 5_000_000}}
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / FILE_NAME).write_text(json.dumps(foreign | {"cell": "b"}))
    made_report = report(tmp_path)
    files = [made_report.csv, made_report.summary, made_report.page]
    assert max(file.stat().st_size for file in files) < 500_000
    assert len(made_report.text) < 20_000


VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, -(10**400), 0.0, -0.5, 1e-320, 1e308, -1e308, 1e160, "", "x",
    "\ud800", "$", "1", "nan", [], [1, [2]], {}, {"name": "x"}, {"name": {"a": [None]}}, [[[]]] * 3,
    "9999-12-31T23:59:59", "0001-01-01T00:00:00", "2026-01-01", "x" * 5000,
]  # fmt: skip


def places(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to every entry within."""
    found = [prefix] if prefix else []
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [place for key, entry in children for place in places(entry, (*prefix, key))]


def changed(record: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    record = copy.deepcopy(record)
    within: Any = record
    for key in place[:-1]:
        within = within[key]
    within[place[-1]] = value
    return record


def spoilt_text(rng: random.Random, record: dict[str, Any]) -> str:
    """A record as a file may hold it after anything."""
    for _ in range(rng.randint(1, 3)):
        record = changed(record, rng.choice(places(record)), rng.choice(VALUES))
    text = json.dumps(record)
    for old, new in (("8.0", "1e999"), ('"seed": 0', '"seed": 0, "seed": 1'), ("{", "\ufeff{"), ("1.0", "-Infinity")):
        if rng.random() < 0.03:
            text = text.replace(old, new, 1)
    if rng.random() < 0.05:
        text = text[: rng.randrange(len(text))]
    if rng.random() < 0.05:
        text = text.replace("{}", '{"a": ' * 200 + "1" + "}" * 200, 1).replace("[]", "[" * 400 + "]" * 400, 1)
    return text


def check_reported(root: Path, names: list[str]) -> None:
    """Every record is a line of the table, or is named in the summary."""
    made = report(root, width=100)
    with made.csv.open(newline="") as file:
        folders = {row["folder"].lstrip("'") for row in csv.DictReader(file)}
    summary = made.summary.read_text()
    repeated = re.search(r"(\d+) records? of a cell that has another", summary)
    missing = [name for name in names if name not in folders and f"{name}/{FILE_NAME}" not in summary]
    assert len(missing) == int(repeated[1] if repeated else 0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(6))
def test_any_record_that_a_file_can_hold_is_reported_or_named(seed: int, tmp_path: Path, cell: Maker) -> None:
    rng = random.Random(seed)
    names = []
    for number in range(12):
        made = cell("batch_norm", rng.choice((2, 8)), number, status=rng.choice(("ok", "ok", "error")))
        record = json.loads(record_text(made))
        names.append(f"c{number}")
        (tmp_path / names[-1]).mkdir()
        text = spoilt_text(rng, record) if number else record_text(made)
        (tmp_path / names[-1] / FILE_NAME).write_bytes(text.encode("utf-8", "surrogatepass"))
    check_reported(tmp_path, names)


@pytest.mark.parametrize("metric", [1e308, 1e999, 10**400, float("nan"), 5e-324, -1e200])
@pytest.mark.parametrize(
    "where", [("metrics", "val_error_running"), ("time", "wall_s"), ("config", "batch_size_per_device")]
)
def test_numbers_beyond_reason(metric: float, where: tuple[str, str], tmp_path: Path, cell: Maker) -> None:
    for number in range(2):
        record = json.loads(record_text(cell("batch_norm", 8, number)))
        record[where[0]][where[1]] = metric
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / FILE_NAME).write_text(json.dumps(record).replace("Infinity", "1e999"))
    write_result(tmp_path / "good", cell("batch_norm", 2, 0))
    check_reported(tmp_path, ["0", "1", "good"])


def test_a_newer_record_is_named_and_kept(tmp_path: Path, cell: Maker) -> None:
    from normzoo.errors import UserError

    newer = json.dumps({"schema": SCHEMA + 1, "cell": "a", "anything": []})
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / FILE_NAME).write_text(newer)
    write_result(tmp_path / "b", cell())
    assert f"has schema {SCHEMA + 1}" in report(tmp_path).summary.read_text()
    with pytest.raises(UserError, match=rf"a.result\.json has schema {SCHEMA + 1} .* it is kept"):
        write_result(tmp_path / "a", cell())
    assert (tmp_path / "a" / FILE_NAME).read_text() == newer
