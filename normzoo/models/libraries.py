"""Classifiers of torchvision and timm, as these build them: for other channels and classes, with pretrained weights.

They are built with norms of their own, which a cell converts. Their `norm_layer=` would lose pretrained norms, some of
their models have none, and others call it with arguments that few norms take.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from normzoo.errors import UserError

_FILES = (".pt", ".pth", ".ckpt", ".bin")


def torchvision_model(name: str, in_channels: int, num_classes: int, weights: str | None = None) -> nn.Module:
    """Build one of torchvision's classifiers.

    Args:
        name: As in `torchvision.models.list_models()`.
        in_channels: Channels of the images. Other than 3, the first convolution is replaced: a pretrained one keeps its
            mean over the channels, so that a grey image passes as in the original.
        num_classes: Classes. Pretrained weights of another number lose their last layer.
        weights: A name of torchvision's, such as `IMAGENET1K_V1` or `DEFAULT`, which it may download; a file of
            weights; or None to draw them.

    Raises:
        UserError: If the model or the weights are unknown or cannot be read.
    """
    import torchvision

    models = torchvision.models
    title = f"model=torchvision model.name={name}"
    _check_known(title, name, models.list_models(module=models))
    from_file = weights is not None and weights.endswith(_FILES)
    named = None if from_file else weights
    try:
        kept = models.get_model(name, weights=named, **({} if named else {"num_classes": num_classes}))
    except (KeyError, ValueError) as error:
        known = ", ".join(one.name for one in models.get_model_weights(name))
        raise UserError(f"{title}: unknown model.weights={weights}; choose one of {known}, or a file") from error
    except OSError as error:
        raise _not_downloaded(title, error) from error
    _replace(kept, nn.Conv2d, in_channels, first=True, pretrained=named is not None)
    if named:
        _replace(kept, (nn.Linear, nn.Conv2d), num_classes, first=False, pretrained=True)
    if from_file:
        load_weights(kept, str(weights))
    return kept


def timm_model(name: str, in_channels: int, num_classes: int, weights: str | None = None) -> nn.Module:
    """Build one of timm's classifiers, which adapts channels and classes itself.

    Args:
        name: As in `timm.list_models()`, also with a tag: `resnet18.a1_in1k`.
        in_channels: Channels of the images.
        num_classes: Classes.
        weights: `pretrained` for those of the name and its tag, which timm may download; a file; or None to draw them.

    Raises:
        UserError: If timm is missing, or the model or the weights are unknown or cannot be read.
    """
    try:
        import timm
    except ImportError as error:
        raise UserError("model=timm needs the package timm: pip install timm") from error
    title = f"model=timm model.name={name}"
    _check_known(title, name.partition(".")[0], timm.list_models())
    from_file = weights is not None and weights.endswith(_FILES)
    if weights not in (None, "pretrained") and not from_file:
        raise UserError(f"{title}: model.weights={weights} must be pretrained, null, or a file ({', '.join(_FILES)})")
    try:
        kept = timm.create_model(
            name, pretrained=weights == "pretrained", in_chans=in_channels, num_classes=num_classes
        )
    except OSError as error:
        raise _not_downloaded(title, error) from error
    except RuntimeError as error:
        raise UserError(f"{title}: {error}") from error
    if from_file:
        load_weights(kept, str(weights))
    return kept


def load_weights(model: nn.Module, path: str) -> nn.Module:
    """Load a model's weights from a file, in place: a state dict, or a checkpoint of Lightning that holds one.

    Parameters whose shapes differ, as of the last layer for other classes, keep what the model was built with.

    Args:
        model: The model; returned.
        path: Written by `torch.save`.

    Raises:
        UserError: If there is no such file, it holds more than data, or its weights are those of another model.
    """
    try:
        saved: Any = torch.load(Path(path).expanduser(), map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"model.weights={path}: there is no such file") from error
    except Exception as error:  # whatever unpickling may raise
        raise UserError(
            f"model.weights={path} cannot be read as weights alone: save them by torch.save(model.state_dict(), path); "
            f"torch's reason: {str(error).strip().splitlines()[0]}"
        ) from error
    saved = saved.get("state_dict", saved) if isinstance(saved, dict) else saved
    if not isinstance(saved, dict) or not all(isinstance(value, torch.Tensor) for value in saved.values()):
        raise UserError(f"model.weights={path} holds no state dict: save one by torch.save(model.state_dict(), path)")
    own = model.state_dict()
    if not own.keys() & saved.keys() and any(key.startswith("model.") for key in saved):
        saved = {key.removeprefix("model."): value for key, value in saved.items() if key.startswith("model.")}
    missing, unknown = sorted(own.keys() - saved.keys()), sorted(saved.keys() - own.keys())
    if missing or unknown:
        lacks = f"lacks {missing[0]} and {len(missing) - 1} more" if missing else ""
        has = f"has {unknown[0]} and {len(unknown) - 1} more, which the model does not" if unknown else ""
        raise UserError(f"model.weights={path} is of another model: it {' and '.join(filter(None, (lacks, has)))}")
    fits = {key: value for key, value in saved.items() if value.shape == own[key].shape}
    inner = [key for key, value in own.items() if value.dim() > 1][1:-1]
    if other := [key for key in inner if key not in fits]:
        raise UserError(
            f"model.weights={path} is of another model: {other[0]} has the shape {tuple(saved[other[0]].shape)} there, "
            f"and {tuple(own[other[0]].shape)} here; only the first and the last layer may differ"
        )
    model.load_state_dict(fits, strict=False)
    return model


def _check_known(title: str, name: str, known: Iterable[str]) -> None:
    known = list(known)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=2)
        raise UserError(f"{title} is unknown; " + (f"did you mean {' or '.join(near)}?" if near else "see its list"))


def _not_downloaded(title: str, error: Exception) -> UserError:
    return UserError(f"{title}: its weights cannot be downloaded ({error}); give a file, model.weights=PATH.pt")


def _replace(model: nn.Module, kinds: Any, size: int, *, first: bool, pretrained: bool) -> None:
    """Replace the first or last layer of these kinds by one for so many channels, unless it has as many."""
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, kinds)]
    name, old = layers[0 if first else -1]
    given, returned = (size, _outputs(old)) if first else (_inputs(old), size)
    if (given, returned) == (_inputs(old), _outputs(old)):
        return
    bias = old.bias is not None
    new: Any
    if isinstance(old, nn.Linear):
        new = nn.Linear(given, returned, bias)
    else:
        new = nn.Conv2d(given, returned, old.kernel_size, old.stride, old.padding, bias=bias)
    if first and pretrained:
        with torch.no_grad():
            new.weight.copy_(old.weight.mean(1, keepdim=True) * old.weight.shape[1] / given)
            if bias:
                new.bias.copy_(old.bias)
    model.set_submodule(name, new)


def _inputs(layer: Any) -> int:
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def _outputs(layer: Any) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
