"""What Hydra says of a choice or a key that is not there, in one line: what was meant, or what is missing.

Hydra's errors say which override it is; what there is to choose or to set is composed anew.
"""

import difflib
import inspect
import re
import shlex
import traceback
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from normzoo.errors import UserError
from normzoo.registry import info
from normzoo.registry import list_norms as norms
from normzoo.resume_command import hydra_quoted

# Engines that are packages of their own, by the group and the choice that they make.
EXTRAS = {"hydra/sweeper/optuna": "optuna"}


def user_error(error: Exception, overrides: Sequence[str] = ()) -> UserError | None:
    """What an error of Hydra's says in one line; None if it is of something else.

    Args:
        error: From Hydra.
        overrides: That it was given.
    """
    import hydra
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException

    if isinstance(error, UserError):
        return error
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        return missing_error(error.missing_cfg_file, error.options, str(error), overrides)
    if isinstance(error, OverrideParseException):
        said = re.sub(r"^LexerNoViableAltException: .*", "Hydra cannot read it", _on_a_line(str(error)))
        said = re.sub(r" expecting \{.*\}", "", said).removeprefix(f"Error parsing override '{error.override}' ")
        return UserError(f"{error.override}: {said}{_as_text(error.override)}" if error.override else said)
    told = config_error(error, overrides)
    if told is None and isinstance(error, HydraException):
        return override_error(error, overrides)
    raised_in = traceback.extract_tb(error.__traceback__)[-1:]
    if told is None and any(Path(hydra.__file__).parent in Path(frame.filename).parents for frame in raised_in):
        return _nameless_choice_error(overrides) or UserError(str(error).split("\n", 1)[0] or type(error).__name__)
    return told


def override_error(error: Exception, overrides: Sequence[str]) -> UserError:
    """Of an override that Hydra can read and not apply: where the key is not there, with the nearest that are."""
    text, cause = str(error), _on_a_line(str(error.__cause__ or ""))
    if several := re.match(r"(?:Ambiguous value for argument|Sweep parameters) '(.+?)'(?:\n1\.| requires)", text):
        line = several[1]
        if re.search(r"\binterval\(", line):
            return interval_error(line)
        typed = shlex.quote(line)
        return UserError(f"{line}: several values make a sweep: add -m, as in normzoo train -m {typed}")
    if twice := re.match(r"Multiple values for (\S+)\. .* '?override \S+ (.+?)'$", text):
        return UserError(f"+{twice[1]}={twice[2]}: {twice[1]} is chosen already; write {twice[1]}={twice[2]}")
    if there := re.match(r"Could not append to config\. .* '(\S+)'\.\n.*: '(.+)'\n", text):
        return UserError(f"+{there[2]}: {there[1]} is there already; write {there[2]}")
    if absent := re.match(r"Could not override '(\S+)'\.\nTo append to your config use \+(.+)", text):
        key, line = absent.groups()
        return _no_key_error(line, key, overrides) if cause.startswith("Key ") else UserError(f"{line}: {cause}")
    if absent := re.match(r"Could not delete from config\. '(\S+)' does not exist", text):
        return _no_key_error(f"~{absent[1]}", absent[1], overrides)
    if text.startswith("Config group override deletion value must be a string"):
        return _nameless_choice_error(overrides) or UserError(_on_a_line(text))
    if merged := re.match(r"Error merging override (.+)", text):
        return UserError(f"{merged[1]}: {cause}")
    return UserError(_on_a_line(text))


def config_error(error: Exception, overrides: Sequence[str] = ()) -> UserError | None:
    """Of a config file that cannot be read, or of a value in one; None if `error` is of something else."""
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError  # type: ignore[import-untyped]

    cause = error.__cause__ if not str(error) and error.__cause__ else error  # Hydra wraps what OmegaConf cannot read
    said = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
    if isinstance(cause, OmegaConfBaseException):
        within = _of_choice(overrides) if cause is not error else ""
        return UserError(f"{within}{cause.full_key}: {said}" if cause.full_key else f"{within}{said}")
    if isinstance(error, YAMLError):
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f"{mark.name}, line {mark.line + 1}: " if mark else _of_choice(overrides)
        return UserError(f"{where}this is not YAML: {problem or said}")
    if isinstance(error, UnicodeDecodeError):
        return UserError(f"{_of_choice(overrides)}this is not YAML: {said}")
    return UserError(said) if said.startswith("Invalid defaults list") else None


def missing_error(missing: str, options: Sequence[str] | None, said: str, overrides: Sequence[str] = ()) -> UserError:
    """Of a config that is not there, which the command line or another config asks for."""
    if "/" not in missing:
        return UserError(f"there is no config {missing} on Hydra's search path")
    asks = re.match("In '(.+?)'", said)
    # Of one in a list Hydra does not tell what there is.
    error = choice_error(missing, _options(missing.rpartition("/")[0], overrides) if options is None else options)
    by_config = asks is not None and "/" in asks[1] and not asks[1].startswith("hydra/")
    return UserError(f"{asks[1]}.yaml asks for another config: {error}") if asks and by_config else error


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


def _nameless_choice_error(overrides: Sequence[str]) -> UserError | None:
    """Of a choice of a group that is no name, such as null, if there is one."""
    for line, key, value in _parsed(overrides):
        if not isinstance(value, (str, list, dict)) and (options := _options(key, overrides)):
            return UserError(
                f"{line}: {key} is a group of configs, of which one is chosen by its name; leave it out, or choose one "
                f"of {', '.join(options)}"
            )
    return None


def _no_key_error(line: str, key: str, overrides: Sequence[str]) -> UserError:
    from normzoo.training.config_keys import GIVEN, meant_by

    config = _composed(overrides)
    groups = config.hydra.runtime.choices
    near = _nearest(key, [*_keys(config), *groups])
    parent = key.rpartition(".")[0]
    options = _select(config, parent) if parent else None
    if key in GIVEN:
        meant = meant_by(key)
    elif near:
        meant = f"did you mean {' or '.join(near)}?"
    elif isinstance(options, Mapping):
        chosen = f"{parent}={options['name']}" if "name" in options else parent
        meant = f"{chosen} has {', '.join(str(option) for option in options if option not in ('name', '_target_'))}"
    else:
        meant = "`normzoo train --help` lists what there is"
    adds = not line.startswith("~") and parent in groups and key.rpartition(".")[2] in _taken(parent, options)
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


def _on_a_line(said: str) -> str:
    said = " ".join(said.split("\n    full_key", 1)[0].split())
    return re.sub(r" See https://hydra\S+ for details", "", said)


@contextmanager
def _loader() -> Iterator[Any]:
    """Hydra's, or another like it where Hydra has ended."""
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    if GlobalHydra.instance().is_initialized():
        yield GlobalHydra.instance().config_loader()
    else:
        with initialize_config_module("normzoo.conf", version_base="1.3"):
            yield GlobalHydra.instance().config_loader()


def _parsed(overrides: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
    """Each override that can be read: its line, its key, and its value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create()
    for line in overrides:
        with suppress(Exception):
            parsed = parser.parse_override(line)
            deletes = parsed.is_delete() and parsed.value() is None
            if not deletes and not parsed.is_sweep_override():
                yield line, parsed.key_or_group, parsed.value()


def _search_path(overrides: Sequence[str]) -> list[str]:
    return [line for line in overrides if line.startswith("hydra.searchpath=")]


def _options(group: str, overrides: Sequence[str]) -> list[str]:
    with _loader() as loader:
        options: list[str] = loader.get_group_options(group, config_name="train", overrides=_search_path(overrides))
        return options


def _choices(overrides: Sequence[str]) -> list[str]:
    return [
        line for line, key, value in _parsed(overrides) if isinstance(value, (str, list)) and _options(key, overrides)
    ]


def _composed(overrides: Sequence[str]) -> Any:
    """What there is to set once the groups are chosen."""
    from hydra.types import RunMode

    path = _search_path(overrides)
    with _loader() as loader:
        with suppress(Exception):
            return loader.load_configuration("train", [*path, *_choices(overrides)], RunMode.RUN)
        return loader.load_configuration("train", [], RunMode.RUN)


def _of_choice(overrides: Sequence[str]) -> str:
    """The choice whose config cannot be read, to stand before what is wrong with it."""
    from hydra.types import RunMode

    with _loader() as loader:
        for line in _choices(overrides):
            try:
                loader.load_configuration("train", [*_search_path(overrides), line], RunMode.RUN)
            except Exception:
                return f"{line}: "
    return ""


def _taken(group: str, options: Any) -> Container[str]:
    """The arguments that a choice of this group takes beyond those that its config has set."""
    from hydra.utils import get_object
    from lightning import Trainer

    from normzoo.training.config_keys import GIVEN

    with suppress(Exception):  # no target, or none that can be looked into: then it is not said
        taken = inspect.signature(Trainer if group == "trainer" else get_object(options["_target_"])).parameters
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
