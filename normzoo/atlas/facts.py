"""The facts about a norm as text, which `normzoo show` and the atlas have in common; needs torch alone."""

import inspect
from collections.abc import Mapping
from typing import Any

from normzoo.norm_info import NormInfo


def facts(norm: NormInfo) -> dict[str, str]:
    """Return the facts about a norm by their titles."""
    yes_no = {True: "yes", False: "no"}
    return {
        "kind": norm.kind,
        "averages over": norm.reduces_over or "-",
        "batch-dependent": yes_no[norm.batch_dependent],
        "train and eval differ": yes_no[norm.train_eval_differ],
        "state": ", ".join(norm.state) or "none",
        "fewest values": str(norm.minimum_count) if norm.minimum_count > 1 else "any number",
        "input dimensions": ", ".join(map(str, norm.ranks)),
        "one fused kernel": yes_no[norm.fused],
        "includes activation": yes_no[norm.includes_activation],
        "does not work with": ", ".join(norm.unsupported) or "-",
        "loads checkpoints of": ", ".join(norm.peers) or "itself alone",
        "paper": norm.paper or "-",
        "aliases": ", ".join(_alias(alias, norm.alias_options.get(alias, {})) for alias in norm.aliases) or "none",
        "arguments": ", ".join(f"{name}={default}" if default else name for name, default in defaults(norm)) or "none",
        "registered by": norm.owner,
        "file": ":".join(map(str, source(norm))) or "unknown",
    }


def defaults(norm: NormInfo) -> list[tuple[str, str]]:
    """Return the arguments of a norm with their defaults; an empty text for one that is required."""
    empty = inspect.Parameter.empty
    return [(name, "" if default is empty else repr(default)) for name, default in norm.arguments.items()]


def _alias(alias: str, options: Mapping[str, Any]) -> str:
    return f"{alias} ({', '.join(f'{key}={value!r}' for key, value in options.items())})" if options else alias


def source(norm: NormInfo) -> tuple[str, int] | tuple[()]:
    """Return the file and line that define a norm; an empty tuple if unknown, as for a class typed at a prompt."""
    try:
        build = inspect.unwrap(norm.build)
        return inspect.getsourcefile(build) or inspect.getfile(build), inspect.getsourcelines(build)[1]
    except (OSError, TypeError):
        return ()
