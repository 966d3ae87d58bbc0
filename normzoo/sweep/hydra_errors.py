"""What Hydra says of a choice or a key that is not there, in one line: what was meant, or what is missing."""

import difflib
import inspect
import re
import shlex
import traceback
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from normzoo.errors import UserError, exit_with
from normzoo.registry import info
from normzoo.registry import list_norms as norms
from normzoo.resume_command import hydra_quoted

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


def nameless_choice_error(error: Exception) -> UserError | None:
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


def key_error(error: Exception) -> UserError:
    """Of an override that Hydra cannot apply or read: where the key is not there, with the nearest that are.

    Which override it is, and what there is, is known where the error was raised.
    """
    from normzoo.training.config import GIVEN, meant_by

    frames = {frame.f_code.co_name: frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)}
    applied, loaded = frames.get("_apply_overrides_to_config", {}), frames.get("_load_configuration_impl", {})
    override, config = applied.get("override"), applied.get("cfg")
    said = " ".join(str(error.__cause__ or error).split("\n    full_key", 1)[0].split())
    said = re.sub(r" See https://hydra\S+ for details", "", said)
    said = re.sub(r"^LexerNoViableAltException: .*", "Hydra cannot read it", said)
    said = re.sub(r" expecting \{.*\}", "", said)
    several = re.match(r"(?:Ambiguous value for argument|Sweep parameters) '(.+?)' ?(?:1\.|requires)", said)
    if several and re.search(r"\binterval\(", several[1]):
        return interval_error(several[1])
    if several:
        typed = shlex.quote(several[1])
        return UserError(f"{several[1]}: several values make a sweep: add -m, as in normzoo train -m {typed}")
    twice = re.match(r"Multiple values for (\S+)\. .* '?override \S+ (.+?)'$", said)
    if twice:
        return UserError(f"+{twice[1]}={twice[2]}: {twice[1]} is chosen already; write {twice[1]}={twice[2]}")
    if override is None or config is None:
        parsed = getattr(error, "override", None)  # what cannot even be read
        said = said.removeprefix(f"Error parsing override '{parsed}' ")
        return UserError(f"{parsed}: {said}{_as_text(parsed)}" if parsed else said)
    line, key = override.input_line, override.key_or_group
    changes = not (override.is_add() or override.is_force_add())
    if said.startswith("Could not append"):
        return UserError(f"{line}: {key} is there already; write {line.lstrip('+')}")
    if not changes or _select(config, key) is not None or not said.startswith(("Key ", "Could not delete")):
        return UserError(f"{line}: {said}")
    groups = loaded["defaults_list"].overrides.known_choices if "defaults_list" in loaded else {}
    near = _nearest(key, [*_keys(config), *groups])
    parent = key.rpartition(".")[0]
    options = _select(config, parent) if parent else None
    if key in GIVEN:
        meant = meant_by(key)
    elif near:
        meant = f"did you mean {' or '.join(near)}?"
    elif isinstance(options, Mapping):
        chosen = f"{parent}={options['name']}" if "name" in options else parent
        meant = f"{chosen} has {', '.join(str(option) for option in options if option != 'name')}"
    else:
        meant = "`normzoo train --help` lists what there is"
    adds = not override.is_delete() and parent in groups and key.rpartition(".")[2] in _taken(parent, options)
    added = f" ({shlex.quote('+' + line)} would add it)" if adds else ""
    return UserError(f"{line}: there is no {key}; {meant}{added}")


def interval_error(line: str) -> UserError:
    """Of a range of which no value is said."""
    searches = shlex.join(["normzoo", "train", "-m", "hydra/sweeper=optuna", line])
    key = line.partition("=")[0]
    return UserError(
        f"{line}: an interval is for a search, which picks values from it: {searches}; or list values, as in -m "
        f"{key}=1,2"
    )


def _as_text(line: str) -> str:
    """How an override that Hydra cannot read is typed so that its value is taken as it is."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    key, equals, value = line.partition("=")
    written = f"{key}={hydra_quoted(value)}"
    if not equals:
        return f"; an override reads {shlex.quote(f'{key}=value')}"
    try:
        OverridesParser.create().parse_override(written)
    except Exception:  # it is not the value
        return ""
    return f"; text with characters that have a meaning to Hydra is written {shlex.quote(written)}"


def config_error(error: Exception) -> UserError | None:
    """Of a config file that cannot be read, or of a value in one; None if `error` is of something else."""
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError  # type: ignore[import-untyped]

    frames = {frame.f_code.co_name: frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)}
    if frames.get("_apply_overrides_to_config", {}).get("override") is not None:
        return None  # of the command line
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    said = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
    loading = frames.get("load_config", {})
    path = loading.get("full_path") or loading.get("config_path")
    within = f"{path}: " if path else ""
    if isinstance(cause, OmegaConfBaseException):
        return UserError(f"{within}{cause.full_key}: {said}" if cause.full_key else f"{within}{said}")
    if said.startswith("Invalid defaults list"):
        return UserError(said)
    if "load_config" not in frames:
        return None
    if isinstance(error, YAMLError):
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f", line {mark.line + 1}" if mark else ""
        return UserError(f"{path}{where}: this is not YAML: {problem or said}")
    return UserError(f"{path}: this is not YAML: {said}") if isinstance(error, (ValueError, OSError)) else None


def _taken(group: str, options: Any) -> Container[str]:
    """The arguments that a choice of this group takes beyond those that its config has set."""
    from hydra.utils import get_class
    from lightning import Trainer

    from normzoo.training.config import GIVEN

    with suppress(Exception):  # no target, or none that can be looked into: then it is not said
        taken = inspect.signature(Trainer if group == "trainer" else get_class(options["_target_"])).parameters
        return {name for name in taken if f"{group}.{name}" not in GIVEN}
    return ()


def _select(config: Any, key: str) -> Any:
    from omegaconf import OmegaConf

    try:
        return OmegaConf.select(config, key)
    except Exception:  # what a value refers to may be missing, and then it is there
        return key


def _keys(config: Any, within: str = "") -> Iterator[str]:
    """Every key of a configuration by its whole name, whatever its values refer to."""
    from omegaconf import DictConfig

    for key in config:
        yield f"{within}{key}"
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not (node._is_none() or node._is_missing() or node._is_interpolation()):
            yield from _keys(node, f"{within}{key}.")


def _nearest(key: str, names: Sequence[str]) -> list[str]:
    """At most three names like `key`: of the same group; or else, of a bare key, of any group; or else of all."""
    parent, _, last = key.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in names if name.rpartition(".")[0] == parent}
    near = [siblings[one] for one in difflib.get_close_matches(last, set(siblings) - {"name"}, n=1)]
    if not near and not parent:
        alike = re.compile(rf".+\.(.*_)?{re.escape(last)}")
        near = [name for name in names if alike.fullmatch(name) and not name.startswith("hydra.")][:3]
    others = [name for name in names if not name.endswith(".name")]
    return near or difflib.get_close_matches(key, others, n=1, cutoff=0.8)


@contextmanager
def hydra_says() -> Iterator[None]:
    """Meanwhile Hydra ends with such a line, where it would list all there is."""
    from hydra._internal import utils

    run_and_report = utils.run_and_report

    def told(function: Callable[[], Any]) -> Any:
        def call() -> Any:
            with _in_a_line():
                return function()

        return run_and_report(call)

    setattr(utils, "run_and_report", told)  # noqa: B010 (its own type is narrower)
    try:
        with _in_a_line():  # what Hydra does to show its help
            yield
    finally:
        utils.run_and_report = run_and_report


@contextmanager
def _in_a_line() -> Iterator[None]:
    from hydra._internal.utils import _is_env_set

    try:
        yield
    except Exception as error:
        said = user_error(error)
        if said is None or _is_env_set("HYDRA_FULL_ERROR"):
            raise
        exit_with(said)


def user_error(error: Exception) -> UserError | None:
    """What an error of Hydra's says in one line; None if it is of something else."""
    from hydra.errors import (
        ConfigCompositionException,
        MissingConfigException,
        OverrideParseException,
        SearchPathException,
    )

    if isinstance(error, UserError):
        return error
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        repos = [f.f_locals["repo"] for f, _ in traceback.walk_tb(error.__traceback__) if f.f_locals.get("repo")]
        group = error.missing_cfg_file.rpartition("/")[0]  # of one in a list Hydra does not tell what there is
        options = error.options or (repos[-1].get_group_options(group) if repos else [])
        return missing_error(error.missing_cfg_file, options, str(error))
    if isinstance(error, (ConfigCompositionException, OverrideParseException, SearchPathException)):
        return config_error(error) or key_error(error)
    return nameless_choice_error(error) or config_error(error) or _alone_error(error)


def _alone_error(error: Exception) -> UserError | None:
    """Of Hydra alone, before anything of ours has run; None otherwise."""
    modules = {frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)}
    ours = {name for name in modules if name.startswith("normzoo.")} - {__name__, "normzoo.commands.train"}
    said = next(iter(str(error).split("\n")), "") or type(error).__name__
    return None if ours - {"normzoo.cli"} or not any(name.startswith("hydra.") for name in modules) else UserError(said)


def missing_error(missing: str, options: Sequence[str], said: str) -> UserError:
    """Of a config that is not there, which the command line or another config asks for."""
    if "/" not in missing:
        return UserError(f"there is no config {missing} on Hydra's search path")
    asks = re.match("In '(.+?)'", said)
    error = choice_error(missing, options)
    by_config = asks is not None and "/" in asks[1] and not asks[1].startswith("hydra/")
    return UserError(f"{asks[1]}.yaml asks for another config: {error}") if asks and by_config else error
