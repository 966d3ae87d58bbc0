"""What Hydra says of a choice that is not there, in one line: what was meant, or what is missing."""

import difflib
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from normzoo.errors import UserError, exit_with
from normzoo.registry import info
from normzoo.registry import list_norms as norms

# Engines that are packages of their own, by the group and the choice that they make.
EXTRAS = {"hydra/sweeper/optuna": "optuna"}


def choice_error(missing: str, options: Sequence[str]) -> UserError:
    """Of a config that is not there.

    Args:
        missing: `group/choice`.
        options: What the group has.
    """
    group, _, choice = missing.rpartition("/")
    if missing in EXTRAS:
        return UserError(f"{group}={choice} needs another package: pip install 'normzoo[{EXTRAS[missing]}]'")
    if group == "norm":
        try:
            name = info(choice).name
        except UserError as error:
            if not set(difflib.get_close_matches(choice, options)) - set(norms()):
                return UserError(f"norm={choice}: {error}")
        else:
            if name in options:
                return UserError(f"norm={choice}: as a config it is called {name}; write norm={name}")
            return UserError(
                f"norm={choice} is registered by {info(choice).owner}, but Hydra finds no norm/{name}.yaml on its "
                f"search path; write one that says `name: {name}`, and name its folder's parent with --config-dir"
            )
    near = difflib.get_close_matches(choice, options, n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(options)}"
    return UserError(f"{group}={choice} is not there; {meant}" if options else f"there is no group {group} of configs")


def nameless_choice_error(error: ValueError) -> UserError | None:
    """Of a choice of a group that is no name, such as null; None if `error` is of something else.

    Hydra's own error does not tell which: that is known where it was raised.
    """
    if not str(error).startswith("Config group override"):
        return None
    *_, (raised_in, _) = traceback.walk_tb(error.__traceback__)
    override, repo = raised_in.f_locals.get("override"), raised_in.f_locals.get("repo")
    if override is None or repo is None:
        return None
    options = ", ".join(repo.get_group_options(override.key_or_group))
    return UserError(
        f"{override.input_line}: {override.key_or_group} is a group of configs, of which one is chosen by its name; "
        f"leave it out, or choose one of {options}"
    )


@contextmanager
def hydra_says() -> Iterator[None]:
    """Meanwhile Hydra ends with such a line, where it would list all there is."""
    from hydra._internal import utils
    from hydra.errors import MissingConfigException

    run_and_report = utils.run_and_report

    def told(function: Callable[[], Any]) -> Any:
        def call() -> Any:
            try:
                return function()
            except MissingConfigException as error:
                if error.missing_cfg_file is None or "/" not in error.missing_cfg_file:
                    raise
                exit_with(choice_error(error.missing_cfg_file, error.options or []))
            except ValueError as error:
                told_better = nameless_choice_error(error)
                if told_better is None:
                    raise
                exit_with(told_better)

        return run_and_report(call)

    setattr(utils, "run_and_report", told)  # noqa: B010 (its own type is narrower)
    try:
        yield
    finally:
        utils.run_and_report = run_and_report
