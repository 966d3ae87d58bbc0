"""Find the equation that a layer obeys: feed a copy of it with known numbers, and compare what comes out."""

import copy
import dataclasses
import itertools
import math
import warnings
from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import Tensor, nn

LARGE = 1e3  # running variances of a copy: eps beside them is nothing
SMALL = 1e-4  # inputs of a copy: eps beside their square is all
EXACT = 1e-4  # relative; a layer may compute in float32


@dataclasses.dataclass(frozen=True)
class Equation:
    """`y = (x − mean) / sqrt(var + eps) · (weight_offset + weight) + bias`; see `identify.Norm` for the fields."""

    equation: str
    channel_dim: int
    num_groups: int | None
    weight: str | None = None
    weight_offset: float = 0.0
    bias: str | None = None
    mean: str | None = None
    var: str | None = None
    over: str = ""
    eps: float | None = None
    momentum: float | None = None
    after: tuple[str, ...] = ()


@torch.no_grad()
def probe(layer: nn.Module, num_features: int) -> Equation | None:
    """Return the equation of a layer for inputs of so many channels; None if it follows none of those known."""
    device = next((t.device for t in (*layer.parameters(), *layer.buffers())), torch.device("cpu"))
    device = torch.device("cpu") if device.type in ("meta", "mps") else device
    values = _values(layer, num_features, device)
    n, *sizes = [size for size in (5, 4, 3, 6, 7, 2) if size != num_features]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for rank, channel_dim in ((4, 1), (4, -1), (3, 1), (3, -1), (5, 1), (5, -1), (2, 1)):
            shape = [n, *sizes[: rank - 2]]
            shape.insert(channel_dim % rank, num_features)
            x = _input(shape, channel_dim, device)
            twin = _twin(layer, values)
            evaluated = _run(twin, x, training=False)
            trained = evaluated if isinstance(layer, nn.SyncBatchNorm) else _run(twin, x, training=True)
            if evaluated is None or trained is None:
                continue
            found = _fit(layer, values, x, evaluated, trained, channel_dim)
            if found is None:
                continue
            after = _after(layer, values, x, evaluated)
            if after is None:
                return None
            momentum, eps = _momentum(layer, twin, values, found, x), _eps(layer, values, found, shape)
            if eps is not None and math.isnan(eps):
                return None
            return dataclasses.replace(found, after=after, eps=eps, momentum=momentum)
    return None


def _values(layer: nn.Module, num_features: int, device: torch.device) -> dict[str, Tensor]:
    """Draw values for the layer's tensors: parameters of either sign, and buffers that are positive and large."""
    random = torch.Generator().manual_seed(0)
    values = {}
    for name, tensor in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)):
        if not tensor.is_floating_point():
            values[name] = torch.zeros(tensor.shape, dtype=tensor.dtype, device=device)
            continue
        drawn = torch.rand(tensor.shape, generator=random, dtype=torch.float64) + 0.5
        sign = torch.randint(2, tensor.shape, generator=random) * 2 - 1
        values[name] = (drawn * sign if name in layer._parameters else drawn * LARGE).to(device)
    return values


def _input(shape: list[int], channel_dim: int, device: torch.device) -> Tensor:
    """Draw an input whose channels differ in mean and scale."""
    random = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=random, dtype=torch.float64).movedim(channel_dim, -1)
    scale, shift = torch.rand(2, x.shape[-1], generator=random, dtype=torch.float64)
    return (x * (20 + 20 * scale) + 100 * shift - 50).movedim(-1, channel_dim).contiguous().to(device)


def _twin(layer: nn.Module, values: dict[str, Tensor], *, whole: bool = False) -> nn.Module:
    """Copy a layer, without its hooks and, unless `whole`, without its children; give it these values."""
    twin = object.__new__(type(layer))
    twin.__dict__.update(layer.__dict__)
    for name, value in vars(layer).items():
        if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")) and isinstance(value, dict):
            twin.__dict__[name] = OrderedDict()
    own = {name: value.clone() for name, value in values.items()}
    parameters = {n: None if p is None else nn.Parameter(own[n], False) for n, p in layer._parameters.items()}
    buffers = {n: None if b is None else own[n] for n, b in layer._buffers.items()}
    children = {n: copy.deepcopy(c).double() if whole and c else nn.Identity() for n, c in layer._modules.items()}
    twin.__dict__.update(_parameters=parameters, _buffers=buffers, _modules=children)
    return twin


def _run(twin: nn.Module, x: Tensor, *, training: bool) -> Tensor | None:
    try:
        y = nn.Module.train(twin, training)(x.clone())  # a frozen layer has a `train` of its own
    except Exception:  # whatever a stranger's layer says of an input that is not for it
        return None
    fits = isinstance(y, Tensor) and y.shape == x.shape and y.is_floating_point()
    return y.double() if fits and bool(y.isfinite().all()) else None


def _fit(
    layer: nn.Module, values: dict[str, Tensor], x: Tensor, evaluated: Tensor, trained: Tensor, channel_dim: int
) -> Equation | None:
    """Return the equation that both outputs obey, without eps and momentum."""
    x, evaluated, trained = (t.movedim(channel_dim, 1) for t in (x, evaluated, trained))
    vectors = {name: t for name, t in values.items() if t.shape == (x.shape[1],) and t.is_floating_point()}
    running = _running(vectors, x, evaluated)
    synchronized = isinstance(layer, nn.SyncBatchNorm)  # not trained here: it would talk to other processes
    for equation, groups, mean, var in _statistics(layer, x):
        x_hat = (x - mean) * var.rsqrt()
        in_training = _roles(vectors, x_hat, trained)
        if in_training is not None and in_training == _roles(vectors, x_hat, evaluated):
            return Equation(equation, channel_dim, groups, *in_training)
        if running is None or equation not in ("batch_norm", "instance_norm"):
            continue
        if synchronized or in_training == running[:3]:
            return Equation(equation, channel_dim, None, *running, equation.removesuffix("_norm"))
    if running is not None and running == _running(vectors, x, trained):
        return Equation("frozen_batch_norm", channel_dim, None, *running, "batch")
    return None


def _statistics(layer: nn.Module, x: Tensor) -> Iterator[tuple[str, int | None, Tensor, Tensor]]:
    """Yield the mean and the variance of each equation, for channels at 1, and the number of groups if it has one."""

    def over(*dims: int) -> tuple[Tensor, Tensor]:
        var, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
        return mean, var

    positions = tuple(range(2, x.dim()))
    if not positions:  # where it is the same as layer_norm
        yield "layer_norm_channel", None, *over(1)
    yield "batch_norm", None, *over(0, *positions)
    if positions:
        yield "instance_norm", None, *over(*positions)
        yield "layer_norm", None, *over(1, *positions)
        yield "layer_norm_channel", None, *over(1)
    yield "rms_norm", None, torch.zeros_like(x), x.square().mean(1, keepdim=True)
    channels, told = x.shape[1], getattr(layer, "num_groups", None)
    for groups in [told] if isinstance(told, int) else range(2, channels):
        if 1 < groups < channels and channels % groups == 0:
            grouped = x.unflatten(1, (groups, -1))
            var, mean = torch.var_mean(grouped, tuple(range(2, grouped.dim())), correction=0, keepdim=True)
            yield "group_norm", groups, mean.expand_as(grouped).flatten(1, 2), var.expand_as(grouped).flatten(1, 2)


def _running(vectors: dict[str, Tensor], x: Tensor, y: Tensor) -> tuple[str | None, float, str | None, str, str] | None:
    """Return weight, its offset, bias, running mean and running variance, if `y` is `x` normalized by these."""
    for mean, var in itertools.permutations(vectors, 2):
        if bool((vectors[var] > 0).all()):
            x_hat = (x - _per_channel(vectors[mean], x)) * _per_channel(vectors[var].rsqrt(), x)
            roles = _roles({name: t for name, t in vectors.items() if name not in (mean, var)}, x_hat, y)
            if roles is not None:
                return (*roles, mean, var)
    return None


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.dim() - 2))


def _roles(vectors: dict[str, Tensor], x_hat: Tensor, y: Tensor) -> tuple[str | None, float, str | None] | None:
    """Return weight, its offset and bias, if `y` is `x_hat` scaled and shifted by these, channel for channel."""
    x_hat, y = (t.transpose(0, 1).flatten(1) for t in (x_hat, y))
    centred = x_hat - x_hat.mean(1, keepdim=True)
    scale = (centred * y).sum(1) / centred.square().sum(1)
    shift = y.mean(1) - scale * x_hat.mean(1)
    tolerance = EXACT * max(1.0, float(y.abs().max()))
    if not bool(((scale[:, None] * x_hat + shift[:, None] - y).abs() < tolerance).all()):
        return None  # also where a statistic of one value leaves no number
    scales: list[tuple[str | None, float, Tensor]] = [(None, 0.0, torch.ones_like(scale))]
    scales += [(name, offset, t + offset) for name, t in vectors.items() for offset in (0.0, 1.0)]
    weight = [(name, offset) for name, offset, t in scales if bool(((t - scale).abs() < 10 * EXACT).all())]
    shifts = [(None, torch.zeros_like(shift)), *vectors.items()]
    bias = [name for name, t in shifts if bool(((t - shift).abs() < 10 * tolerance).all())]
    return (*weight[0], bias[0]) if weight and bias else None


def _after(layer: nn.Module, values: dict[str, Tensor], x: Tensor, normalized: Tensor) -> tuple[str, ...] | None:
    """Return the children that follow the norm, one after the other; None if the layer does something else."""
    names = tuple(name for name, child in layer.named_children() if not isinstance(child, nn.Identity))
    try:
        twin = _twin(layer, values, whole=True)
        y, expected = _run(twin, x, training=False), normalized.clone()
        for name in names:
            expected = twin.get_submodule(name)(expected)
    except Exception:  # of children that cannot be copied, or want something else
        return None
    return names if y is not None and torch.allclose(y, expected, rtol=EXACT, atol=EXACT) else None


def _eps(layer: nn.Module, values: dict[str, Tensor], found: Equation, shape: list[int]) -> float | None:
    """Measure eps where the output depends on it most; return the number that the layer holds, if it is that one."""
    own = {name: t.clone() for name, t in values.items()}
    device = next(iter(own.values())).device if own else torch.device("cpu")
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(device) * SMALL
    fixed = found.equation == "frozen_batch_norm" or isinstance(layer, nn.SyncBatchNorm)
    if found.bias is not None:
        own[found.bias].zero_()
    if fixed and found.mean is not None and found.var is not None:
        own[found.mean].zero_()
        own[found.var].fill_(SMALL**2)
    y = _run(_twin(layer, own), x, training=not fixed)
    if y is None:
        return math.nan
    x, y = (t.movedim(found.channel_dim, 1) for t in (x, y))
    mean, var = torch.zeros_like(x), torch.full_like(x, SMALL**2)
    if not fixed:
        same = (found.equation, found.num_groups)
        mean, var = next((m, v) for equation, groups, m, v in _statistics(layer, x) if (equation, groups) == same)
    scaled = (
        (x - mean) if found.weight is None else (x - mean) * _per_channel(own[found.weight] + found.weight_offset, x)
    )
    measured = float(((scaled / y).square() - var).median())
    for name, told in sorted(vars(layer).items(), key=lambda entry: "eps" not in entry[0]):
        if isinstance(told, float) and abs(told - measured) <= 0.05 * max(told, measured) + 1e-13:
            return told
        if told is None and "eps" in name and measured < 2e-7:
            return None
    return float(f"{measured:.3g}") if measured > 1e-13 else 0.0


def _momentum(layer: nn.Module, twin: nn.Module, values: dict[str, Tensor], found: Equation, x: Tensor) -> float | None:
    """Measure the weight of the newest batch in the running mean, after one; None for a cumulative average."""
    told: float | None = getattr(layer, "momentum", None)
    if found.mean is None or found.equation == "frozen_batch_norm" or isinstance(layer, nn.SyncBatchNorm):
        return told if found.mean is not None else None
    x = x.movedim(found.channel_dim, 1)
    before, after = values[found.mean], twin.get_buffer(found.mean)
    moved = (after - before) / (x.mean((0, *range(2, x.dim()))) - before)
    measured = float(moved.median())
    if told is None and hasattr(layer, "momentum"):
        return None
    near = isinstance(told, (int, float)) and abs(told - measured) < 10 * EXACT
    return told if near else round(measured, 4)
