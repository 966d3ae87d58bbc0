"""What an operation on the norms of a model did: one row a layer, and the way back."""

import dataclasses
import itertools
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from torch import nn

from normzoo.errors import UserError
from normzoo.text import printable


class SurgeryError(UserError, ValueError):
    """An operation on a model's norms that cannot be done; the model is as it was."""


@dataclasses.dataclass(frozen=True)
class Row:
    """What became of one layer."""

    name: str
    """The layer's qualified name; empty for the model itself."""
    was: str
    now: str
    action: str
    """`converted`, `kept`, or another participle."""
    reason: str = ""


R = TypeVar("R")


class Rows(Sequence[R], Generic[R]):
    """Rows of a table that are data too."""

    def __init__(self, rows: Sequence[R]) -> None:
        self.rows = tuple(rows)

    def as_dicts(self) -> list[dict[str, Any]]:
        """Return the rows as plain data: `pandas.DataFrame(report.as_dicts())`."""
        return [dataclasses.asdict(row) for row in self.rows]  # type: ignore[call-overload]

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[R]:
        return iter(self.rows)

    def __repr__(self) -> str:
        return str(self)


class Report(Rows[Row]):
    """The rows of an operation, its model, and `undo`. It prints as a table; `as_dicts` is for data frames.

    Attributes:
        rows: What became of each layer.
        model: The model after the operation: the same object, unless that is itself a norm.
    """

    def __init__(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        undo: Callable[[], nn.Module] | None = None,
        title: str = "layer",
    ) -> None:
        super().__init__(rows)
        self.model = model
        self._undo = undo
        self._title = title

    def undo(self) -> nn.Module:
        """Put back every layer that was replaced, with the values that it shares with its successor; return the model.

        The second time it does nothing.

        Raises:
            SurgeryError: If a layer was replaced again since; undo that first.
        """
        if self._undo is not None:
            self.model = self._undo()
            self._undo = None
        return self.model

    def counts(self) -> dict[str, int]:
        """Return how many rows there are of each action."""
        actions = [row.action for row in self.rows]
        return {action: actions.count(action) for action in dict.fromkeys(actions)}

    def __str__(self) -> str:
        if not self.rows:
            return f"{type(self.model).__name__} holds no {self._title}"
        head = ("layer", "from", "to", "action", "reason")
        cells = [(row.name or "(model)", row.was, row.now, row.action, row.reason) for row in self.rows]
        return "\n".join([*aligned(head, cells), ", ".join(f"{n} {action}" for action, n in self.counts().items())])


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]], widest: int | None = None) -> list[str]:
    """Align a table in lines, its columns at most `widest` characters wide."""
    lines: list[Sequence[str]] = [head]
    for row in rows:
        cells = [printable(cell, keep="") for cell in row]
        wrapped = [textwrap.wrap(cell, widest) if widest else [cell] for cell in cells]
        lines += itertools.zip_longest(*wrapped, fillvalue="")
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
