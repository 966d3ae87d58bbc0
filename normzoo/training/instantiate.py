"""Build the objects of a configuration: norm, model, data, optimizer, probes, study."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from torch import nn

from normzoo.data.own import OwnData
from normzoo.errors import UserError
from normzoo.models.blocks import Placement
from normzoo.registry import NormInfo, UnknownNormError, factory, info
from normzoo.training.config import CellConfig, OptimizerOptions
from normzoo.training.converted import convert_norms
from normzoo.training.parent_process import give_sign_of_life
from normzoo.training.target import accepted, build_by_target, check_module, partial_of, takes, title


def norm_info(config: CellConfig) -> NormInfo:
    """Look up the facts of the norm.

    Raises:
        UserError: If the norm is not registered, though it has a config.
    """
    name = config.norm["name"]
    try:
        return info(name)
    except UnknownNormError as error:
        raise UserError(
            f"norm={name}: there is a config of that name, but nothing installed registers such a norm: install "
            f"the package that does, and names it under the entry points `normzoo.norms`; or, if the config errs: "
            f"{error.at_command_line or error}"
        ) from error


def build_norm(config: CellConfig) -> Callable[[int], nn.Module]:
    """Build the norm's factory: `name` is looked up, every other option is an argument."""
    arguments = {key: value for key, value in config.norm.items() if key != "name"}
    try:
        return factory(config.norm["name"], **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error


def build_placement(config: CellConfig) -> Placement:
    """Build the rule of which stages are normalized, and on which side of the activation."""
    try:
        return Placement(**{key: value for key, value in config.placement.items() if key != "name"})
    except TypeError as error:
        raise UserError(f"placement: {error}; it takes order and where") from error


def build_data(config: CellConfig) -> Any:
    """Build the data module, with batches of `batch_size_per_device` per process.

    A plain LightningDataModule becomes an `OwnData`, which adds what normzoo needs beyond its two dataloaders.
    """
    given = {"batch_size": config.batch_size_per_device, "seed": config.seed}
    data = build_by_target("data", config.data, **accepted("data", config.data, given))
    if hasattr(data, "loader"):
        return data
    if not isinstance(data, lightning.LightningDataModule):
        raise UserError(f"{title('data', config.data)} is a {type(data).__name__}; it must be a LightningDataModule")
    return OwnData(data, **given)


def build_model(
    config: CellConfig,
    image_shape: tuple[int, int, int],
    num_classes: int,
    norm: Callable[[int], nn.Module] | None = None,
) -> nn.Module:
    """Build the model with its norms placed as configured.

    Its constructor gets those of `norm, placement, in_channels, num_classes` that it has arguments for. One without
    `norm` builds norms of its own, and these are converted.

    Args:
        config: Of the cell.
        image_shape: The shape (C, H, W) of an image.
        num_classes: The number of classes.
        norm: The factory of its norms; None for that of the configuration.
    """
    placement = build_placement(config)
    offered = {"placement": placement, "in_channels": image_shape[0], "num_classes": num_classes}
    if takes("model", config.model, "norm"):
        offered["norm"] = norm or build_norm(config)
        model: nn.Module = build_by_target("model", config.model, **accepted("model", config.model, offered))
    else:
        with torch.device("cpu"):  # since what a layer of an unknown class computes is found out by running it
            model = build_by_target("model", config.model, **accepted("model", config.model, offered))
            check_module("model", config.model, model)
            convert_norms(title("model", config.model), model, config.norm, placement)
    check_module("model", config.model, model)
    model.register_forward_pre_hook(give_sign_of_life)
    return model


def schedule(options: OptimizerOptions, total_steps: int) -> Callable[[int], float]:
    """Return the factor on the learning rate at each optimizer step."""
    warmup_steps = round(options.warmup * total_steps)
    kinds: dict[str, Callable[[float], float]] = {
        "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
        "step": lambda done: 0.1 ** sum(done >= milestone for milestone in options.milestones),
        "constant": lambda done: 1.0,
        "exponential": lambda done: options.decay_rate ** (done / options.decay_every),
    }
    decay = kinds[options.schedule]

    def factor_at(step: int) -> float:
        warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
        return warm * decay(min(1.0, step / max(1, total_steps)))

    return factor_at


@dataclass(frozen=True)
class Parts:
    """What a study, a cell that measures instead of training, may build from its configuration."""

    config: CellConfig

    def norm(self) -> Callable[[int], nn.Module]:
        """Build the norm's factory."""
        return build_norm(self.config)

    def data(self) -> Any:
        """Build, prepare and set up the data module."""
        data = build_data(self.config)
        data.prepare_data()
        data.setup("fit")
        return data

    def model(self, data: Any) -> nn.Module:
        """Build a model for the images of `data`."""
        return build_model(self.config, data.image_shape, data.num_classes)

    def optimizer(self, parameters: Any) -> Any:
        """Build the optimizer of these parameters."""
        return build_optimizer(self.config, parameters)

    def scheduler(self, optimizer: Any, steps: int) -> Any:
        """Build the scheduler of an optimizer that takes so many steps."""
        return torch.optim.lr_scheduler.LambdaLR(optimizer, schedule(self.config.optimizer, steps))


def build_study(config: CellConfig) -> Callable[..., Any] | None:
    """Build the function that a cell with a `study` calls instead of training: `(parts) -> (metrics, arrays)`."""
    if not config.study:
        return None
    study = partial_of("study", config.study)
    try:
        inspect.signature(study)
    except ValueError as error:
        takes = ", ".join(inspect.signature(study.func).parameters)  # type: ignore[attr-defined]
        raise UserError(f"study={config.study.get('name')} has an option that it does not take: {takes}") from error
    return study


def build_probes(config: CellConfig) -> list[lightning.Callback]:
    """Build the probes, each a callback."""
    return [build_by_target(name, options) for name, options in config.probe.items()]


def build_optimizer(config: CellConfig, parameters: Any) -> Any:
    """Build the torch optimizer at the scaled learning rate.

    Raises:
        UserError: If it does not accept an option, or its value.
    """
    name, arguments = config.optimizer.name, config.optimizer.arguments
    _check_takes(name, arguments)
    try:
        return instantiate(arguments, parameters, lr=config.lr, _convert_="all")
    except InstantiationException as error:
        raise UserError(f"optimizer={name}: {error.__cause__ or error}") from error


def _check_takes(name: str | None, arguments: Mapping[str, Any]) -> None:
    """Check that the optimizer's class accepts the options, some of which an experiment may have set for another."""
    try:
        takes = inspect.signature(get_class(arguments["_target_"])).parameters
    except (KeyError, ValueError, ImportError):
        return  # reported when it is built
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        return
    for key in arguments:
        if key not in takes and not key.startswith("_"):
            raise UserError(
                f"optimizer={name} takes no {key}, which was set for another one or is misspelt: leave it out with "
                f"~optimizer.{key}; it takes {', '.join(one for one in takes if one not in ('params', 'lr'))}"
            )
