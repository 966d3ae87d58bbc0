"""Convert the norms of an existing model to another norm."""

import copy
import fnmatch
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from normzoo.errors import UserError
from normzoo.registry import info
from normzoo.surgery._calibrate import calibrate, moments
from normzoo.surgery._successor import Successor, Target, succeed, target_of
from normzoo.surgery._swap import Swap
from normzoo.surgery.call_order import observe
from normzoo.surgery.identify import Norm, find_norms
from normzoo.surgery.norm_functions import functions_in_code
from normzoo.surgery.report import Report, Row, SurgeryError

Rule = str | type[nn.Module] | Callable[[str, nn.Module], bool]
Rules = Rule | Sequence[Rule] | None
Found = tuple[str, nn.Module, Norm]


def convert(
    model: nn.Module,
    to: str,
    *,
    sample: Any = None,
    where: Rules = None,
    exclude: Rules = None,
    first: int | None = None,
    last: int | None = None,
    dry_run: bool = False,
    optimizer: torch.optim.Optimizer | None = None,
    loader: Iterable[Any] | None = None,
    **options: Any,
) -> Report:
    """Convert the norms of a model to the norm called `to`: `convert(model, "group_norm", num_groups=8)`.

    What a layer computes decides, not its class: layers of torch, timm, transformers and normzoo are converted alike,
    and a layer that follows none of the known equations is kept. A converted layer keeps what means the same in both
    norms: parameters and running statistics, as the same objects, so that an optimizer goes on with them; eps and
    momentum; affine=False and a missing bias; its activation, layout of channels and further arguments; hooks, device,
    dtype, mode and requires_grad. A layer that is used twice stays one layer.

    Args:
        model: Changed in place, unless it is a norm itself: then `report.model` takes its place.
        to: Name of a registered norm.
        sample: An input of the model, or a tuple or dict of several. It runs once, in evaluation: it tells the shapes
            that the norms get, so that a norm that could not take them is not put there, and finds norms that are
            functions in a forward and not layers.
        where: Which norms to convert: a pattern of names ("layer1", "*.bn2"), a class, a function of name and layer,
            or a list of these; None for all.
        exclude: Which of these to keep.
        first: Convert the first so many of them only, in the order of registration; with `last`, those too.
        last: Convert the last so many of them only.
        dry_run: Report what would become of each layer, and change nothing.
        optimizer: One that was built before; new parameters enter it and those no longer used leave it.
        loader: Batches to calibrate on, each an input, or a tuple whose first entry is one: new running statistics are
            measured, and each converted layer's weight and bias are set so that every channel keeps its mean and
            standard deviation. Pass them in a list or a DataLoader, which can be run through twice.
        **options: Options of the new norm; they replace what a layer would keep. A number of groups that does not
            divide the channels of a layer becomes the next smaller one that does.

    Returns:
        What became of each norm and why; `print(report)`, `report.model`, `report.undo()`.

    Raises:
        UserError: If an argument is wrong, or a norm cannot be built; the model is as it was.
    """
    if not isinstance(model, nn.Module):
        raise SurgeryError(f"convert takes a model, an nn.Module; got {type(model).__name__}")
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise SurgeryError(f"optimizer must be a torch.optim.Optimizer; got {type(optimizer).__name__}")
    for name, number in (("first", first), ("last", last)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
            raise SurgeryError(f"{name} is a number of norms, 1 or more; got {number!r}")
    target = target_of(to, options)
    found = list(find_norms(model))
    shapes: dict[nn.Module, torch.Size] = {}
    norms = {layer for _, layer, _ in found}
    if sample is None:
        functions = functions_in_code(model, norms)
    else:
        calls, functions = observe(model, norms, sample)
        shapes = {call.layer: call.input.shape for call in calls}
        found = list(find_norms(model, shapes))
    chosen = _choose(found, where, exclude, first, last)
    like = next((t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()), None)
    names: dict[nn.Module, list[str]] = {}
    for name, layer in model.named_modules(remove_duplicate=False):
        names.setdefault(layer, []).append(name)
    rows: list[Row] = []
    successors: dict[nn.Module, Successor] = {}
    for name, layer, norm in found:
        reason = norm.reason or _obstacle(model, layer, norm, target)
        if layer not in chosen:
            reason = "not chosen"
        elif not reason:
            successors[layer] = _build(name, layer, norm, target, like)
            reason = _rejected(layer, successors[layer], target, shapes.get(layer))
            if reason:
                del successors[layer]
        rows.append(_row(names[layer], layer, norm, target, reason, successors.get(layer)))
    rows += [Row(names[module][0], f"F.{f}", "", "kept", "a function that a forward calls") for module, f in functions]
    if dry_run:
        return Report(model, rows, title="norm")
    batches = list(loader) if loader is not None and iter(loader) is loader else loader
    wanted = None if batches is None else moments(model, successors, batches)
    swap = Swap(model, successors, optimizer)
    if batches is not None and wanted is not None:
        try:
            calibrate(swap.model, successors, wanted, batches, swap.remember)
        except BaseException:
            swap.undo()
            raise
    rows += [Row(name, "nested tensors", "", "switched off", "the norms take none") for name in swap.unnested]
    return Report(swap.model, rows, swap.undo, title="norm")


def _choose(
    found: Sequence[Found], where: Rules, exclude: Rules, first: int | None, last: int | None
) -> set[nn.Module]:
    """Return the layers that are to be converted."""
    names = [name for name, _, _ in found]
    for title, rules in (("where", where), ("exclude", exclude)):
        for rule in _listed(rules):
            if not isinstance(rule, (str, type)) and not callable(rule):
                raise SurgeryError(f"{title} is a pattern, a class, a function or a list of these; got {rule!r}")
            if isinstance(rule, str) and not any(_fits(rule, name, layer) for name, layer, _ in found):
                some = ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")
                raise SurgeryError(f"{title}={rule!r} is the name of no norm of the model; its norms: {some or 'none'}")
    kept = [layer for name, layer, _ in found if where is None or any(_fits(r, name, layer) for r in _listed(where))]
    out = {layer for name, layer, _ in found if any(_fits(rule, name, layer) for rule in _listed(exclude))}
    chosen = [layer for layer in kept if layer not in out]
    if first is None and last is None:
        return {*chosen}
    return {*chosen[: first or 0], *chosen[len(chosen) - min(last or 0, len(chosen)) :]}


def _listed(rules: Rules) -> Sequence[Rule]:
    return () if rules is None else rules if isinstance(rules, (list, tuple, set)) else (rules,)


def _fits(rule: Rule, name: str, layer: nn.Module) -> bool:
    if isinstance(rule, str):  # also of a module that the layer is in
        parts = name.split(".")
        return any(fnmatch.fnmatchcase(".".join(parts[:end]), rule) for end in range(1, len(parts) + 1))
    return isinstance(layer, rule) if isinstance(rule, type) else bool(rule(name, layer))


def _obstacle(model: nn.Module, layer: nn.Module, norm: Norm, target: Target) -> str:
    """Return why another layer in the place of this one would not be called, or not as it is."""
    if info(norm.equation).kind == "conditional":
        return "it takes a condition with each input"
    if isinstance(norm.num_features, tuple) and norm.equation != target.facts.name:
        return f"it normalizes the last {len(norm.num_features)} dimensions together"
    if "train" in vars(layer):
        return "it is frozen: unfreeze it first"
    if any(getattr(parent, "_orig_mod", None) is layer for parent in model.modules()):
        return "it is compiled by itself: convert before torch.compile"
    return ""


def _build(name: str, layer: nn.Module, norm: Norm, target: Target, like: Tensor | None) -> Successor:
    try:
        with torch.random.fork_rng(devices=[]):
            return succeed(layer, norm, target, like)
    except UserError as error:
        raise SurgeryError(f"{name or 'the model'}: {error}; exclude={name!r} keeps it as it is") from error


def _rejected(layer: nn.Module, successor: Successor, target: Target, shape: Sequence[int] | None) -> str:
    """Return why the layer is better left where it is."""
    new = successor.layer
    same = all(_option(layer, name) == value for name, value in target.options.items() if hasattr(new, name))
    if type(new) is type(layer) and same and new.extra_repr() == layer.extra_repr():
        return f"it is {target.facts.name} already"
    if shape is None or (dist.is_available() and dist.is_initialized()):
        return ""
    trial = copy.deepcopy(new).train()
    tensor = next((t for t in (*trial.parameters(), *trial.buffers()) if t.is_floating_point()), torch.empty(0))
    try:
        with warnings.catch_warnings(action="ignore"), torch.random.fork_rng(devices=[]):
            trial(torch.randn(max(2, shape[0]), *shape[1:]).to(tensor))
    except Exception as error:
        return f"{target.facts.name} would refuse its input: {error}"
    return ""


def _option(layer: nn.Module, name: str) -> Any:
    """Return the value of an option, which of `bias` is whether there is one."""
    value = getattr(layer, name, None)
    return value is not None if name == "bias" else value


def _row(
    names: Sequence[str], layer: nn.Module, norm: Norm, target: Target, reason: str, successor: Successor | None
) -> Row:
    kind = layer.original_name if isinstance(layer, torch.jit.ScriptModule) else type(layer).__name__
    was = f"{kind} ({norm.equation})" if norm.equation and norm.equation != target.facts.name else kind
    also = [f"also {', '.join(names[1:])}"] if names[1:] else []
    if successor is None:
        return Row(names[0], was, "", "kept", "; ".join([reason, *also]))
    return Row(names[0], was, target.facts.name, "converted", "; ".join([*also, *successor.notes]))
