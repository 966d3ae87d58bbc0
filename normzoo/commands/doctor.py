"""`normzoo doctor`: find what is wrong with the norms of a cell's model, or of one's own."""

import argparse
import json
import pkgutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

from normzoo.errors import UserError

OPTIONS: dict[str, tuple[Callable[[str], Any], str]] = {
    "batch_size_per_device": (int, "samples in a training batch of one process; default: those of the sample"),
    "devices": (int, "processes that train together"),
    "accumulate_grad_batches": (int, "batches to an optimizer step"),
    "train_size": (int, "samples in the training set"),
    "norm_layer": (str, "name of the norm that the model was built with"),
}
SWITCHES = {
    "drop_last": "the last, short batch is dropped",
    "sync_batchnorm": "convert_sync_batchnorm is to be applied, as by Lightning's flag",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is examined, and how it is trained."""
    parser.description = (
        "Find what is wrong with the norms of a model: that of a cell, by the overrides of normzoo train, or your own. "
        "Exit with 1 if one of the findings is an error."
    )
    parser.epilog = (
        "normzoo doctor model=resnet8 norm=batch_norm batch_size_per_device=2; "
        "normzoo doctor torchvision.models:resnet18 --sample 2,3,64,64 --batch-size-per-device 2 --devices 8"
    )
    parser.add_argument(
        "what",
        nargs="*",
        metavar="OVERRIDE | MODULE:CALLABLE",
        help="overrides, none for the default cell; or what returns a model, or (model, sample) or (model, sample, "
        "optimizer), called without arguments",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    own = parser.add_argument_group("with MODULE:CALLABLE")
    own.add_argument("--sample", type=_shape, metavar="N,C,H,W", help="shape of a random input, of 2 samples or more")
    for name, (kind, meaning) in OPTIONS.items():
        own.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="NAME" if kind is str else "N", help=meaning)
    for name, meaning in SWITCHES.items():
        own.add_argument(f"--{name.replace('_', '-')}", action="store_true", default=None, help=meaning)


def run(arguments: argparse.Namespace) -> None:
    """Print the findings, and exit with 1 if one is an error.

    Raises:
        UserError: If there is no such model, or it cannot take the sample.
    """
    from normzoo.surgery.doctor import doctor

    given = {name: getattr(arguments, name) for name in (*OPTIONS, *SWITCHES)}
    given = {name: value for name, value in given.items() if value is not None}
    own = [word for word in arguments.what if "=" not in word and ":" in word]
    if own and len(arguments.what) > 1:
        raise UserError(
            f"normzoo doctor takes {own[0]} alone: give options such as --batch-size-per-device, no overrides"
        )
    if not own and (given or arguments.sample):
        named = next(iter(given), "sample").replace("_", "-")
        raise UserError(f"--{named} is for MODULE:CALLABLE; of a cell write overrides, such as batch_size_per_device=2")
    model, sample, options = _own(own[0], arguments.sample, given) if own else _cell(arguments.what)
    findings = doctor(model, sample, **options)
    print(json.dumps(findings.as_dicts(), indent=2, ensure_ascii=False) if arguments.json else findings)
    if findings.at_least("error"):
        sys.stdout.flush()
        sys.exit(1)


def _shape(text: str) -> tuple[int, ...]:
    shape = tuple(int(size) for size in text.replace("x", ",").split(","))
    if min(shape) < 1:
        raise ValueError(text)
    return shape


_shape.__name__ = "shape"  # argparse says "invalid shape value"


def _own(name: str, shape: tuple[int, ...] | None, given: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """Build the user's model, and its sample."""
    import torch

    sys.path.insert(0, "")  # as of `python -m`: a module in this folder
    try:
        built = pkgutil.resolve_name(name)()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UserError(
            f"{name}: {type(error).__name__}: {error}; it must be what returns a model when it is called without "
            f"arguments, such as torchvision.models:resnet18"
        ) from error
    finally:
        sys.path.remove("")
    model, *rest = built if isinstance(built, tuple) else (built,)
    sample = rest[0] if rest else None
    if shape is not None:
        sample = torch.randn(shape)
    if sample is None:
        raise UserError(f"{name} returns no sample: give the shape of one, as in --sample 2,3,224,224")
    if len(rest) > 1:
        given["optimizer"] = rest[1]
    if "batch_size_per_device" not in given:
        if not isinstance(sample, torch.Tensor):
            raise UserError(f"give --batch-size-per-device: the sample of {name} is a {type(sample).__name__}")
        given["batch_size_per_device"] = len(sample)
    return model, sample, given


def _cell(overrides: Sequence[str]) -> tuple[Any, Any, dict[str, Any]]:
    """Build a cell's model and optimizer, and a sample like its data."""
    try:
        import torch
        from hydra import initialize_config_module
        from hydra.core.global_hydra import GlobalHydra
        from hydra.types import RunMode

        from normzoo.sweep.compose import Composer
        from normzoo.sweep.hydra_errors import user_error
        from normzoo.training.instantiate import build_data, build_model, build_optimizer
        from normzoo.training.trainable import choose_trained, trained
    except ModuleNotFoundError as error:
        raise UserError(f"normzoo doctor of a cell needs {error.name}: pip install 'normzoo[sweep]'") from error

    try:
        with initialize_config_module("normzoo.conf", version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            of_hydra = [word for word in overrides if word.startswith("hydra.")]
            master = loader.load_configuration("train", of_hydra, RunMode.MULTIRUN)
            config, _ = Composer(loader, master, "runs").compose(overrides)
    except Exception as error:
        raise user_error(error, overrides) or error from error
    if config.invalid is not None:
        raise UserError(config.invalid)
    data: Any = build_data(config.changed(batch_size_per_device=1))
    data.prepare_data()
    getattr(data, "survey", lambda: data.setup("fit"))()
    model = build_model(config, data.image_shape, data.num_classes)
    choose_trained(model, config.optimizer.trains)
    return (
        model,
        torch.randn(min(max(config.batch_size_per_device, 2), 32), *data.image_shape),
        {
            "batch_size_per_device": config.batch_size_per_device,
            "devices": config.world_size,
            "optimizer": build_optimizer(config, trained(model)),
            "norm_layer": config.norm["name"],
            "accumulate_grad_batches": config.trainer.accumulate_grad_batches,
            "train_size": data.num_train,
            "drop_last": getattr(data, "drop_last", True),
            "sync_batchnorm": bool(config.trainer.arguments.get("sync_batchnorm")),
        },
    )
