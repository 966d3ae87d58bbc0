"""Compare normzoo's surgery with other libraries on the same models: errors, changed outputs, layers left out.

    python scripts/compare_surgery.py --json compare.json          # all models; run it again to resume
    python scripts/compare_surgery.py --only timm --limit 5

Models have random weights and statistics and get tiny inputs on the CPU. Libraries that are not installed are left out;
this installs the others beside normzoo:

    pip install --no-deps mmengine opacus portalocker termcolor addict yapf
    pip install transformers segmentation-models-pytorch

Operations: `sync` converts batch norms to synchronized ones and compares outputs in evaluation; `freeze` freezes batch
norms, trains a batch and looks which statistics moved; `fold` folds batch norms into convolutions, in float64, and
counts those left beyond what another library folds; `same` converts each norm to normzoo's layer of the same equation;
`groups` converts batch norms to group norms and counts those left.
"""

import argparse
import copy
import json
import os
import platform
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import normzoo
from normzoo.surgery.identify import find_norms

Model = tuple[nn.Module, Any]
TOLERANCE = 1e-3  # of float32 outputs, relative to the largest
SECONDS = 120  # for one operation
LARGEST = 40_000_000  # parameters; larger models are left out

TIMM = """
bat_resnext26ts botnet26t_256 coatnet_nano_rw_224 convmixer_768_32 convnext_atto crossvit_tiny_240 cspdarknet53
cspresnet50 darknet53 deit_tiny_patch16_224 densenet121 dla34 dm_nfnet_f0 dpn68 eca_resnext26ts edgenext_xx_small
efficientformer_l1 efficientnet_b0 efficientnet_es efficientvit_b0 ese_vovnet19b_dw fastvit_t8 fbnetc_100 gernet_s
ghostnet_100 halonet26t hardcorenas_a hgnet_tiny hrnet_w18_small inception_next_atto inception_v3 inception_v4
lambda_resnet26t lcnet_050 legacy_seresnet18 levit_128 mixer_s32_224 mixnet_s mnasnet_050 mobilenetv2_050
mobilenetv3_small_050 mobilenetv4_conv_small mobileone_s0 mobilevit_xxs mobilevitv2_050 nf_resnet26 pit_ti_224
poolformer_s12 pvt_v2_b0 regnetx_002 regnety_002 repghostnet_050 repvgg_a0 repvit_m0_9 res2net50_14w_8s resmlp_12_224
resnest14d resnet18 resnetv2_50 resnext50_32x4d rexnet_100 selecsls42 semnasnet_050 seresnet18 skresnet18 spnasnet_100
swin_tiny_patch4_window7_224 tf_efficientnet_b0 tinynet_e tiny_vit_5m_224 tresnet_m vgg11_bn visformer_tiny
vit_tiny_patch16_224 xception41 xcit_nano_12_p16_224
"""


def models() -> dict[str, Callable[[], Model]]:
    """Return the models of all installed libraries, each as a function that builds it and an input."""
    from torchvision import models as tv

    image = (torch.randn(2, 3, 64, 64),)
    found: dict[str, Callable[[], Model]] = {}
    for name in tv.list_models(module=tv):
        side = {"inception_v3": 299, "googlenet": 96}.get(name, 224 if name.startswith(("vit_", "maxvit")) else 64)
        found[f"torchvision/{name}"] = lambda name=name, side=side: (
            _torchvision(name),
            (torch.randn(2, 3, side, side),),
        )
    for name in tv.list_models(module=tv.detection):
        x = ([torch.rand(3, 64, 64)],)
        found[f"detection/{name}"] = lambda name=name, x=x: (_torchvision(name, weights_backbone=None), x)
    for name in tv.list_models(module=tv.segmentation):
        found[f"segmentation/{name}"] = lambda name=name: (_torchvision(name, weights_backbone=None), image)
    for name in tv.list_models(module=tv.video):
        size = (1, 3, 16, 224, 224) if name.startswith(("mvit", "swin")) else (2, 3, 16, 64, 64)
        found[f"video/{name}"] = lambda name=name, size=size: (_torchvision(name), (torch.randn(size),))
    if timm := _installed("timm"):
        for name in TIMM.split():
            found[f"timm/{name}"] = lambda name=name: _timm(timm, name)
    if transformers := _installed("transformers"):
        for name in ("Bert", "Llama", "T5", "ViT", "ResNet", "ConvNext", "Gemma"):
            found[f"transformers/{name}"] = lambda name=name: _transformers(transformers, name)
    if smp := _installed("segmentation_models_pytorch"):
        for name in ("Unet", "FPN", "DeepLabV3Plus", "PSPNet"):
            found[f"segmentation_models/{name}"] = lambda name=name: (
                getattr(smp, name)("resnet18", encoder_weights=None),
                image,
            )
    return found


def _torchvision(name: str, **options: Any) -> nn.Module:
    from torchvision.models import get_model

    return get_model(name, weights=None, **options)


def _timm(timm: Any, name: str) -> Model:
    model = timm.create_model(name)
    side = model.default_cfg["input_size"][-1]
    return model, (torch.randn(2, 3, side, side),)


def _transformers(transformers: Any, name: str) -> Model:
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    options: dict[str, dict[str, Any]] = {
        "T5": {"d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 2, "d_kv": 16},
        "Llama": {**small, "vocab_size": 100, "num_key_value_heads": 2},
        "Gemma": {**small, "vocab_size": 100, "num_key_value_heads": 2, "head_dim": 16},
        "Bert": {**small, "vocab_size": 100}, "ViT": {**small, "image_size": 32, "patch_size": 8},
        "ResNet": {}, "ConvNext": {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 32, 64]},
    }  # fmt: skip
    kind = "T5EncoderModel" if name == "T5" else f"{name}Model"
    model = getattr(transformers, kind)(getattr(transformers, f"{name}Config")(**options[name]))
    images = {"ViT": 32, "ResNet": 64, "ConvNext": 64}
    x = torch.randn(2, 3, images[name], images[name]) if name in images else torch.arange(8).reshape(2, 4)
    return model, (x,)


def _installed(name: str) -> Any:
    with suppress(Exception):  # a package that is installed may fail on another's version
        return import_module(name)


def operations() -> dict[str, dict[str, Callable[[nn.Module, Any], nn.Module]]]:
    """Return each operation by library, as functions of a model, which may be changed, and its input."""
    timm, opacus = _installed("timm.layers"), _installed("opacus.validators")
    mmengine = _installed("mmengine.model")
    from torch.fx.experimental.optimization import fuse

    sync: dict[str, Any] = {
        "torch": lambda model, x: nn.SyncBatchNorm.convert_sync_batchnorm(model),
        "normzoo": lambda model, x: normzoo.convert(model, "sync_batch_norm", where=_is_batch_norm).model,
    }
    freeze: dict[str, Any] = {"normzoo": lambda model, x: normzoo.freeze(model) if batch_norms(model) else model}
    groups: dict[str, Any] = {
        "normzoo": lambda model, x: normzoo.convert(model, "group_norm", where=_is_batch_norm).model
    }
    if timm:
        sync["timm"] = lambda model, x: timm.convert_sync_batchnorm(model)
        freeze["timm"] = lambda model, x: timm.freeze_batch_norm_2d(model)
    if mmengine and hasattr(mmengine, "convert_sync_batchnorm"):
        sync["mmengine"] = lambda model, x: mmengine.convert_sync_batchnorm(model)
    if opacus:
        groups["opacus"] = lambda model, x: opacus.ModuleValidator.fix(model)
    return {
        "sync": sync,
        "freeze": freeze,
        "fold": {"torch.fx": lambda model, x: fuse(model), "normzoo": lambda model, x: _fold(model, x)},
        "same": {"normzoo": _same_kind},
        "groups": groups,
    }


def _is_batch_norm(name: str, layer: nn.Module) -> bool:
    return isinstance(layer, _BatchNorm)


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """Return the batch norms that are not synchronized, those of timm with an activation included."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and "Sync" not in type(m).__name__]


def _fold(model: nn.Module, x: Any) -> nn.Module:
    normzoo.fold(model, x)
    return model


def _same_kind(model: nn.Module, x: Any) -> nn.Module:
    kinds = {norm.equation for _, _, norm in find_norms(model) if norm.equation and not norm.reason}
    for kind in sorted(kinds - {"frozen_batch_norm"}):
        of_kind = {layer for _, layer, norm in find_norms(model) if norm.equation == kind}
        model = normzoo.convert(model, kind, where=lambda name, layer, of_kind=of_kind: layer in of_kind).model
    return model


def measure(build: Callable[[], Model]) -> dict[str, dict[str, Any]]:
    """Apply every operation of every library to a model; return for each `error`, or `changed` and `left`."""
    torch.manual_seed(0)
    model, x = build()
    size = sum(parameter.numel() for parameter in model.parameters())
    if size > LARGEST:
        return {}
    _randomize(model.eval())
    told: dict[str, dict[str, Any]] = {}
    for operation, libraries in operations().items():
        source, inputs = (model, x) if operation != "fold" else (copy.deepcopy(model).double(), _double(x))
        if operation in ("sync", "freeze", "fold", "groups") and not batch_norms(source):
            continue
        expected = _outputs(source, inputs)
        for library, apply in libraries.items():
            trial = copy.deepcopy(source)
            try:
                with _time_limit():
                    told[f"{operation}/{library}"] = _one(operation, apply, trial, inputs, expected)
            except Exception as error:  # whatever a library raises is its result
                told[f"{operation}/{library}"] = {"error": f"{type(error).__name__}: {error}"[:200]}
    fewest = min(
        (entry["left"] for key, entry in told.items() if key.startswith("fold/") and "left" in entry), default=0
    )
    for key, entry in told.items():
        if key.startswith("fold/") and "left" in entry:
            entry["left"] -= fewest  # what nobody folds cannot be folded
    return told


def _one(operation: str, apply: Any, model: nn.Module, x: Any, expected: list[torch.Tensor]) -> dict[str, Any]:
    if operation == "freeze":
        model = apply(model, x)
        changed = not _equal(_outputs(model.eval(), x), expected)
        before = {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}
        with torch.no_grad(), suppress(ValueError, AssertionError, TypeError):  # detection trains with targets
            model.train()(*x)
        left = sum(not torch.equal(buffer, before[name]) for name, buffer in model.named_buffers() if name in before)
        return {"changed": changed, "left": left // 2}
    model = apply(model, x)
    left = 0 if operation == "same" else len(batch_norms(model))
    if operation == "groups":  # outputs differ, as they should
        _outputs(model.eval(), x)
        return {"changed": False, "left": left}
    return {"changed": not _equal(_outputs(model.eval(), x), expected), "left": left}


def _randomize(model: nn.Module) -> None:
    """Draw weights, biases and statistics of batch norms, so that none of them is as good as absent."""
    for layer in batch_norms(model):
        for name, low in (("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5), ("running_var", 0.5)):
            tensor = getattr(layer, name)
            if tensor is not None:
                tensor.data.uniform_(low, low + 1)


def _outputs(model: nn.Module, x: Any) -> list[torch.Tensor]:
    torch.manual_seed(0)
    with torch.no_grad():
        found = list(_tensors(model(*x)))
    if isinstance(x[0], list):  # of detections with equal scores any suppresses the others: their scores are compared
        return [tensor.sort().values for tensor in found if tensor.dim() == 1 and tensor.is_floating_point()]
    return found


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)
    elif hasattr(value, "values"):
        for one in value.values():
            yield from _tensors(one)


def _equal(found: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        return False
    tolerance = 1e-8 if expected and expected[0].dtype == torch.float64 else TOLERANCE
    for one, other in zip(found, expected, strict=True):
        if other.is_floating_point() and other.numel():
            scale = float(other.abs().max())
            if float((one - other).abs().nan_to_num(torch.inf).max()) > tolerance * max(scale, 1e-6):
                return False
    return True


def _double(x: Any) -> Any:
    if isinstance(x, torch.Tensor):
        return x.double() if x.is_floating_point() else x
    return type(x)(_double(one) for one in x)


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"took longer than {SECONDS} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


def table(results: dict[str, Any]) -> str:
    """Return the counts as a Markdown table."""
    lines = [
        "| operation | library | models | errors | outputs changed | models with layers left |",
        "|---|---|--:|--:|--:|--:|",
    ]
    keys = sorted({key for told in results.values() for key in told}, key=lambda k: (k.split("/")[0], k))
    for key in keys:
        entries = [told[key] for told in results.values() if key in told]
        operation, library = key.split("/")
        errors = sum("error" in entry for entry in entries)
        changed, left = (sum(bool(entry.get(name)) for entry in entries) for name in ("changed", "left"))
        lines.append(f"| {operation} | {library} | {len(entries)} | {errors} | {changed} | {left} |")
    return "\n".join(lines)


def main() -> None:
    """Measure the models that the file does not hold yet, each in a process of its own; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", metavar="START", help="models whose name starts so, such as timm or video/r3d"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="the first N of these")
    parser.add_argument("--json", type=Path, default=Path("compare_surgery.json"), metavar="FILE", help="results")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    chosen = {k: b for k, b in models().items() if not arguments.only or k.startswith(tuple(arguments.only))}
    results: dict[str, Any] = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    for name, build in list(chosen.items())[: arguments.limit]:
        if name in results:
            continue
        results[name] = _in_a_process(build)
        arguments.json.write_text(json.dumps(results, indent=1))
        bad = {k: v for k, v in results[name].items() if k.endswith("normzoo") and (v.get("error") or v.get("changed"))}
        print(name, bad or "", flush=True)
    packages = [p for p in ("torch", "torchvision", "timm", "opacus", "mmengine", "transformers") if _installed(p)]
    print(table({name: told for name, told in results.items() if told and "error" not in told}))
    failed = [name for name, told in results.items() if "error" in told]
    print(f"\nnot built here: {', '.join(failed) or 'none'}")
    print(f"{', '.join(f'{p} {version(p)}' for p in packages)}; {platform.processor() or platform.machine()}, CPU")


def _in_a_process(build: Callable[[], Model]) -> Any:
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reading)
        try:
            with open(os.devnull, "w") as nowhere:
                sys.stdout = sys.stderr = nowhere
                told: Any = measure(build)
        except BaseException as error:
            told = {"error": f"{type(error).__name__}: {error}"[:200]}
        with os.fdopen(writing, "w") as pipe:
            pipe.write(json.dumps(told))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else {"error": "the process died"}


if __name__ == "__main__":
    main()
