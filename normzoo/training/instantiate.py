"""From a composed configuration to objects: norm, model, data, learning rate."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import lightning
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from torch import nn

from normzoo.errors import UserError
from normzoo.models.blocks import Placement
from normzoo.registry import NormInfo, UnknownNormError, factory, info
from normzoo.training.heartbeat import give_sign_of_life

Config = Mapping[str, Any]

# Options of the group `optimizer` that are not arguments of the torch optimizer.
_OURS = frozenset(
    {
        "name",
        "base_lr",
        "base_batch",
        "lr_rule",
        "schedule",
        "milestones",
        "decay_rate",
        "decay_every",
        "warmup",
        "trains",
    }
)


def norm_info(config: Config) -> NormInfo:
    """The facts of the norm of `config["norm"]`.

    Raises:
        UserError: If nothing registers one of its name; what could, since it has a config.
    """
    name = config["norm"]["name"]
    try:
        return info(name)
    except UnknownNormError as error:
        raise UserError(
            f"norm={name}: there is a config of that name, but nothing installed registers such a norm: install "
            f"the package that does, and names it under the entry points `normzoo.norms`; or, if the config errs: "
            f"{error.at_command_line or error}"
        ) from error


def build_norm(config: Config) -> Callable[[int], nn.Module]:
    """The norm of `config["norm"]`: `name` is looked up, every other key is one of its arguments."""
    arguments = {key: value for key, value in config["norm"].items() if key != "name"}
    try:
        return factory(config["norm"]["name"], **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error


def build_placement(config: Config) -> Placement:
    """Which stages are normalized, and on which side of the activation."""
    try:
        return Placement(**{key: value for key, value in config["placement"].items() if key != "name"})
    except TypeError as error:
        raise UserError(f"placement: {error}; it takes order and where") from error


def build_data(config: Config) -> lightning.LightningDataModule:
    """The data set of `config["data"]`, in batches of `batch_size_per_device` per process."""
    return _instantiate("data", config, batch_size=config["batch_size_per_device"], seed=config["seed"])


def build_model(
    config: Config,
    image_shape: tuple[int, int, int],
    num_classes: int,
    norm: Callable[[int], nn.Module] | None = None,
) -> nn.Module:
    """The model of `config["model"]` for images of `image_shape` (C, H, W), with the norm where the placement says.

    Args:
        norm: In place of that of the configuration.
    """
    model = _instantiate(
        "model",
        config,
        norm=norm or build_norm(config),
        placement=build_placement(config),
        in_channels=image_shape[0],
        num_classes=num_classes,
    )
    model.register_forward_pre_hook(give_sign_of_life)
    return model


def batch_over_devices(config: Config) -> int:
    """Samples that all processes pass through their models at once."""
    trainer = config["trainer"]
    return config["batch_size_per_device"] * trainer["devices"] * trainer["num_nodes"]


def global_batch(config: Config) -> int:
    """Samples per optimizer step: the batches of all processes, as many of them as gradients are accumulated over."""
    return batch_over_devices(config) * config["trainer"].get("accumulate_grad_batches", 1)


def learning_rate(config: Config) -> float:
    """The peak learning rate: `base_lr` scaled from `base_batch` to the global batch by `lr_rule`.

    linear: Goyal et al. 2017 (arXiv:1706.02677), section 2.1; sqrt: Krizhevsky 2014 (arXiv:1404.5997), section 5.
    """
    optimizer = config["optimizer"]
    ratio = global_batch(config) / optimizer["base_batch"]
    rules = {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}
    if optimizer["lr_rule"] not in tuple(rules):
        raise UserError(f"optimizer.lr_rule={optimizer['lr_rule']} is not a rule; choose one of {', '.join(rules)}")
    return optimizer["base_lr"] * rules[optimizer["lr_rule"]]


def schedule(config: Config, total_steps: int) -> Callable[[int], float]:
    """The factor on the learning rate at each optimizer step."""
    optimizer = config["optimizer"]
    warmup_steps = round(optimizer["warmup"] * total_steps)
    kinds: dict[str, Callable[[float], float]] = {
        "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
        "step": lambda done: 0.1 ** sum(done >= milestone for milestone in optimizer["milestones"]),
        "constant": lambda done: 1.0,
        "exponential": lambda done: optimizer["decay_rate"] ** (done / optimizer["decay_every"]),
    }
    if optimizer["schedule"] not in tuple(kinds):
        raise UserError(f"optimizer.schedule={optimizer['schedule']} is none; choose one of {', '.join(kinds)}")
    for option in ("decay_rate", "decay_every") if optimizer["schedule"] == "exponential" else ():
        value = optimizer.get(option)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise UserError(
                f"optimizer.{option}={value!r} must be a positive number with optimizer.schedule=exponential"
            )
    decay = kinds[optimizer["schedule"]]

    def factor_at(step: int) -> float:
        warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
        return warm * decay(min(1.0, step / max(1, total_steps)))

    return factor_at


@dataclass(frozen=True)
class Parts:
    """What a study, a cell that measures instead of training, may build from its configuration."""

    config: Config

    @property
    def seed(self) -> int:
        return self.config["seed"]

    def norm(self) -> Callable[[int], nn.Module]:
        return build_norm(self.config)

    def data(self) -> Any:
        """The data module, prepared and set up."""
        data = build_data(self.config)
        data.prepare_data()
        data.setup("fit")
        return data

    def model(self, data: Any) -> nn.Module:
        """A model for the images of `data`."""
        return build_model(self.config, data.image_shape, data.num_classes)

    def optimizer(self, parameters: Any) -> Any:
        return build_optimizer(self.config, parameters)


def build_study(config: Config) -> Callable[..., Any] | None:
    """The function that a cell with a `study` calls instead of training: `(parts) -> (metrics, arrays)`."""
    if not config.get("study"):
        return None
    study = _partial("study", config)
    try:
        inspect.signature(study)
    except ValueError as error:
        takes = ", ".join(inspect.signature(study.func).parameters)  # type: ignore[attr-defined]
        raise UserError(f"study={config['study'].get('name')} has an option that it does not take: {takes}") from error
    return study


def build_probes(config: Config) -> list[lightning.Callback]:
    """The instruments of `config["probe"]`, a mapping from a name to a callback's configuration."""
    probes = config.get("probe") or {}
    return [_instantiate(name, probes) for name in probes]


def build_optimizer(config: Config, parameters: Any) -> Any:
    """The torch optimizer of `config["optimizer"]` at the scaled learning rate.

    Raises:
        UserError: If torch takes none of its options, or not their values.
    """
    arguments = {key: value for key, value in config["optimizer"].items() if key not in _OURS}
    _check_takes(config, arguments)
    try:
        return instantiate(arguments, parameters, lr=learning_rate(config), _convert_="all")
    except InstantiationException as error:
        raise UserError(f"optimizer={config['optimizer'].get('name')}: {error.__cause__ or error}") from error


def _check_takes(config: Config, arguments: Mapping[str, Any]) -> None:
    """Refuse what the optimizer's class does not take, such as what an experiment has set for another one."""
    try:
        takes = inspect.signature(get_class(arguments["_target_"])).parameters
    except (KeyError, ValueError, ImportError):
        return  # told when it is built
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        return
    for key in arguments:
        if key not in takes and not key.startswith("_"):
            name = config["optimizer"].get("name")
            raise UserError(
                f"optimizer={name} takes no {key}, which was set for another one or is misspelt: leave it out with "
                f"~optimizer.{key}; it takes {', '.join(one for one in takes if one not in ('params', 'lr'))}"
            )


def _instantiate(group: str, config: Config, **arguments: Any) -> Any:
    try:
        return _partial(group, config)(**arguments)
    except TypeError as error:
        name = config[group].get("name")  # which no probe has
        raise UserError(f"{group}={name}: {error}" if name else f"{group}: {error}") from error


def _partial(group: str, config: Config) -> Callable[..., Any]:
    chosen = {key: value for key, value in config[group].items() if key != "name"}
    try:
        # Called by us and not by Hydra, which would turn the arguments into configuration, and errors into its own.
        return instantiate(chosen, _partial_=True, _convert_="all")
    except InstantiationException as error:
        said = " ".join(str(error.__cause__ or error).split())
        raise UserError(f"{group}={config[group].get('name')}: {said}") from error
