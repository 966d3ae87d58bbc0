"""Shorten Hydra's errors to one line: what was meant, or what is missing.

Hydra's errors name the override; what there is to choose or to set is composed anew.
"""

import difflib
import inspect
import re
import shlex
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from hydra.utils import get_object
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from normzoo.errors import UserError
from normzoo.registry import info, list_norms
from normzoo.resume_command import hydra_quoted
from normzoo.training.config_keys import GIVEN, meant_by


def user_error(error: Exception, overrides: Sequence[str] = ()) -> UserError | None:
    """Shorten to one line an error that Hydra raised for these overrides; None if it is of something else."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        return _missing_error(error.missing_cfg_file, error.options, str(error), overrides)
    if isinstance(error, OverrideParseException):
        said = _on_a_line(str(error)).removeprefix(f"Error parsing override '{error.override}' ")
        said = re.sub(r" expecting \{.*\}", "", re.sub(r"^LexerNoViableAlt.*", "Hydra cannot read it", said))
        return UserError(f"{error.override}: {said}{_as_text(error.override)}" if error.override else said)
    told = config_error(error, overrides)
    if told is None and isinstance(error, HydraException):
        return _override_error(error, overrides)
    raised_in = traceback.extract_tb(error.__traceback__)[-1:]
    if told is None and any(Path(hydra.__file__).parent in Path(frame.filename).parents for frame in raised_in):
        return _nameless_choice_error(overrides) or UserError(str(error).split("\n", 1)[0] or type(error).__name__)
    return told


def config_error(error: Exception, overrides: Sequence[str] = ()) -> UserError | None:
    """Explain a config file that cannot be read, or a value in one; None if `error` is of something else."""
    cause = error.__cause__ if not str(error) and error.__cause__ else error  # Hydra wraps what OmegaConf cannot read
    said = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
    if isinstance(cause, OmegaConfBaseException):
        within = _broken_choice(overrides) if cause is not error else ""
        return UserError(f"{within}{f'{cause.full_key}: ' if cause.full_key else ''}{said}")
    if isinstance(error, (YAMLError, UnicodeDecodeError)):
        mark = getattr(error, "problem_mark", None)
        where = f"{mark.name}, line {mark.line + 1}: " if mark else _broken_choice(overrides)
        return UserError(f"{where}this is not YAML: {getattr(error, 'problem', None) or said}")
    return UserError(said) if said.startswith("Invalid defaults list") else None


def interval_error(line: str) -> UserError:
    """Explain a range of which no value is named."""
    return UserError(
        f"{line}: an interval is for a search, which picks values from it: normzoo train -m hydra/sweeper=optuna "
        f"{shlex.quote(line)}; or list values, as in -m {line.partition('=')[0]}=1,2"
    )


def _override_error(error: Exception, overrides: Sequence[str]) -> UserError:
    """Explain an override that Hydra can read and not apply."""
    text, cause = str(error), _on_a_line(str(error.__cause__ or ""))
    if several := re.match(r"(?:Ambiguous value for argument|Sweep parameters) '(.+?)'(?:\n1\.| requires)", text):
        if re.search(r"\binterval\(", line := several[1]):
            return interval_error(line)
        return UserError(f"{line}: several values make a sweep: add -m, as in normzoo train -m {shlex.quote(line)}")
    if twice := re.match(r"Multiple values for (\S+)\. .* '?override \S+ (.+?)'$", text):
        return UserError(f"+{twice[1]}={twice[2]}: {twice[1]} is chosen already; write {twice[1]}={twice[2]}")
    if there := re.match(r"Could not append to config\. .* '(\S+)'\.\n.*: '(.+)'\n", text):
        return UserError(f"+{there[2]}: {there[1]} is there already; write {there[2]}")
    if absent := re.match(r"Could not override '(\S+)'\.\nTo append to your config use \+(.+)", text):
        by_key = cause.startswith("Key ")
        return _no_key_error(absent[2], absent[1], overrides) if by_key else UserError(f"{absent[2]}: {cause}")
    if absent := re.match(r"Could not delete from config\. '(\S+)' does not exist", text):
        return _no_key_error(f"~{absent[1]}", absent[1], overrides)
    if text.startswith("Config group override deletion value must be a string"):
        return _nameless_choice_error(overrides) or UserError(_on_a_line(text))
    if merged := re.match(r"Error merging override (.+)", text):
        return UserError(f"{merged[1]}: {cause}")
    return UserError(_on_a_line(text))


def _missing_error(missing: str, options: Sequence[str] | None, said: str, overrides: Sequence[str]) -> UserError:
    """Explain that there is no config that the command line or another config asks for."""
    group, slash, choice = missing.rpartition("/")
    if not slash:
        return UserError(f"there is no config {missing} on Hydra's search path")
    # Of one in a list Hydra does not tell what there is.
    error = _choice_error(group, choice, _options(group, overrides) if options is None else options)
    asks = re.match("In '([^'/]+/[^']+)'", said)
    by_config = asks is not None and not asks[1].startswith("hydra/")
    return UserError(f"{asks[1]}.yaml asks for another config: {error}") if asks and by_config else error


def _choice_error(group: str, choice: str, options: Sequence[str]) -> UserError:
    if (group, choice) == ("hydra/sweeper", "optuna"):
        return UserError(f"{group}={choice} needs another package: pip install 'normzoo[optuna]'")
    if group == "norm":
        try:
            name = info(choice).name
        except UserError as error:
            if not set(difflib.get_close_matches(choice, options)) - set(list_norms()):
                return UserError(f"norm={choice}: {error}")
        else:
            if name in options:
                return UserError(f"norm={choice}: as a config it is called {name}; write norm={name}")
            return UserError(
                f"norm={choice} is registered by {info(choice).owner}, but Hydra finds no norm/{name}.yaml on its "
                f"search path; write one that says `name: {name}`, and name its folder's parent with --config-dir"
            )
    if not options:
        return UserError(f"there is no group {group} of configs")
    near = difflib.get_close_matches(choice, options, n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(options)}"
    return UserError(f"{group}={choice} is not there; {meant}")


def _nameless_choice_error(overrides: Sequence[str]) -> UserError | None:
    """Explain a choice of a group that is no name, such as null, if there is one."""
    for line, key, value in _parsed(overrides):
        if not isinstance(value, (str, list, dict)) and (options := _options(key, overrides)):
            chosen = f"leave it out, or choose one of {', '.join(options)}"
            return UserError(f"{line}: {key} is a group of configs, of which one is chosen by its name; {chosen}")
    return None


def _no_key_error(line: str, key: str, overrides: Sequence[str]) -> UserError:
    config = _load(())
    with suppress(Exception):
        config = _load([*_search_path(overrides), *_choices(overrides)])
    groups = config.hydra.runtime.choices
    near = _nearest(key, [*_keys(config), *groups])
    parent, _, last = key.rpartition(".")
    options: Any = None
    with suppress(Exception):  # what a value refers to may be missing
        options = OmegaConf.select(config, parent) if parent else None
    if key in GIVEN:
        meant = meant_by(key)
    elif near:
        meant = f"did you mean {' or '.join(near)}?"
    elif isinstance(options, Mapping):
        chosen = f"{parent}={options['name']}" if "name" in options else parent
        meant = f"{chosen} has {', '.join(str(option) for option in options if option not in ('name', '_target_'))}"
    else:
        meant = "`normzoo train --help` lists what there is"
    adds = False
    with suppress(Exception):  # no target, or none that can be looked into
        takes = inspect.signature(Trainer if parent == "trainer" else get_object(options["_target_"])).parameters
        adds = not line.startswith("~") and parent in groups and last in takes and key not in GIVEN
    added = f" ({shlex.quote('+' + line)} would add it)" if adds else ""
    return UserError(f"{line}: there is no {key}; {meant}{added}")


def _as_text(line: str) -> str:
    """Tell how an override that Hydra cannot read is typed so that its value is taken as it is."""
    key, equals, value = line.partition("=")
    written = f"{key}={hydra_quoted(value)}"
    if not equals:
        return f"; an override reads {shlex.quote(f'{key}=value')}"
    with suppress(Exception):  # raised if it is not the value that is wrong
        OverridesParser.create().parse_override(written)
        return f"; text with characters that have a meaning to Hydra is written {shlex.quote(written)}"
    return ""


def _on_a_line(said: str) -> str:
    said = " ".join(said.split("\n    full_key", 1)[0].split())
    return re.sub(r" See https://hydra\S+ for details", "", said)


@contextmanager
def _loader() -> Iterator[Any]:
    """Get Hydra's loader of configs, or another like it where Hydra has ended."""
    if GlobalHydra.instance().is_initialized():
        yield GlobalHydra.instance().config_loader()
    else:
        with initialize_config_module("normzoo.conf", version_base="1.3"):
            yield GlobalHydra.instance().config_loader()


def _parsed(overrides: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
    """Parse each override that can be read, and yield its line, its key, and its value."""
    parser = OverridesParser.create()
    for line in overrides:
        with suppress(Exception):
            one = parser.parse_override(line)
            if not one.is_sweep_override() and not (one.is_delete() and one.value() is None):
                yield line, one.key_or_group, one.value()


def _search_path(overrides: Sequence[str]) -> list[str]:
    return [line for line in overrides if line.startswith("hydra.searchpath=")]


def _options(group: str, overrides: Sequence[str]) -> list[str]:
    with _loader() as loader:
        return list(loader.get_group_options(group, config_name="train", overrides=_search_path(overrides)))


def _choices(overrides: Sequence[str]) -> list[str]:
    parsed = list(_parsed(overrides))
    return [line for line, key, value in parsed if isinstance(value, (str, list)) and _options(key, overrides)]


def _load(overrides: Sequence[str]) -> Any:
    with _loader() as loader:
        return loader.load_configuration("train", list(overrides), RunMode.RUN)


def _broken_choice(overrides: Sequence[str]) -> str:
    """Find the choice whose config cannot be read, to stand before what is wrong with it."""
    for line in _choices(overrides):
        try:
            _load([*_search_path(overrides), line])
        except Exception:
            return f"{line}: "
    return ""


def _keys(config: Any, within: str = "") -> Iterator[str]:
    """Yield every key of a configuration by its whole name, whatever its values refer to."""
    for key in config:
        yield f"{within}{key}"
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not (node._is_none() or node._is_missing() or node._is_interpolation()):
            yield from _keys(node, f"{within}{key}.")


def _nearest(key: str, names: Sequence[str]) -> list[str]:
    """Find at most three names like `key`: in the same group; or else, for a bare key, in any; or else among all."""
    parent, _, last = key.rpartition(".")
    siblings = [name.rpartition(".")[2] for name in names if name.rpartition(".")[0] == parent]
    near = [f"{parent}.{one}".lstrip(".") for one in difflib.get_close_matches(last, {*siblings} - {"name"}, n=1)]
    if not near and not parent:
        alike = re.compile(rf".+\.(.*_)?{re.escape(last)}")
        near = [name for name in names if alike.fullmatch(name) and not name.startswith("hydra.")][:3]
    others = [name for name in names if not name.endswith(".name")]
    return near or difflib.get_close_matches(key, others, n=1, cutoff=0.8)
