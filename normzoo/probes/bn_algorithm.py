"""Check the statements that define batch normalization, each by its largest error for a given norm."""

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normzoo.errors import UserError
from normzoo.registry import info

Norm = Callable[..., Any]

TINY = 1e-30  # for statements that are exact only without eps; torch does not accept 0
FRACTION = 0.999  # Caffe's moving_average_fraction
SCALES = (1e-3, 1e-2, 0.1, 0.5, 2.0, 10.0, 100.0)
SHAPES = {"dense": (16, 5), "conv": (8, 5, 4, 3)}


def bn_algorithm(parts: Any, *, steps: int = 2000) -> tuple[dict[str, float], dict[str, Any]]:
    """Check a norm against the definition of batch normalization, in float64.

    Args:
        parts: Seed and norm of the cell.
        steps: Batches that the moving averages see.

    Returns:
        The largest error of each statement, relative to the largest value if that exceeds 1; and as arrays the moving
        averages over the steps, and the deviation from scale invariance over the scale.

    Raises:
        UserError: If the norm has no running mean and variance.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167: Algorithm 1, the chain rule of section 3, Algorithm 2, and scale
        invariance in section 3.3.
    """
    norm, name = parts.norm(), parts.config.norm["name"]
    if any(getattr(norm(8), buffer, None) is None for buffer in ("running_mean", "running_var")):
        raise UserError(f"norm={name} has no running_mean and running_var; choose batch_norm or batch_norm_scratch")
    torch.manual_seed(parts.config.seed)
    errors: dict[str, float] = {}
    for kind, shape in SHAPES.items():
        errors[f"forward_{kind}"], errors[f"backward_{kind}"] = _one_step(norm, torch.randn(shape).double() * 3 + 7)
        errors[f"identity_{kind}"] = _identity(norm, torch.randn(shape).double() * 3 + 7)
        errors[f"inference_{kind}"] = _inference(norm, torch.randn(shape).double() * 3 + 7)
    errors["worked_example"], count = _worked_example(norm)
    for kind in SHAPES:
        errors[f"bias_output_{kind}"], errors[f"bias_gradient_{kind}"] = _bias(norm, kind)
    averages = _moving_averages(norm, steps, takes_fraction="moving_average_fraction" in info(name).arguments)
    invariance = {kind: _scale_invariance(norm, kind) for kind in SHAPES}
    errors |= averages.pop("errors")
    for found in invariance.values():
        errors |= found.pop("errors")
    return {**errors, "values_a_channel": float(count)}, {**averages, **invariance["dense"]}


def normalize(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Compute Algorithm 1, y = weight · (x − mean) / sqrt(var + eps) + bias, over all dimensions but the second."""
    dims = [0, *range(2, x.dim())]
    m = x.numel() // x.shape[1]
    mean = x.sum(dims, keepdim=True) / m
    var = ((x - mean) ** 2).sum(dims, keepdim=True) / m
    return _wide(weight, x) * (x - mean) / (var + eps).sqrt() + _wide(bias, x)


def gradients(x: Tensor, dy: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Apply the paper's chain rule: return the gradients of input, weight and bias, given that of the output."""
    dims = [0, *range(2, x.dim())]
    m = x.numel() // x.shape[1]
    mean = x.mean(dims, keepdim=True)
    var = ((x - mean) ** 2).mean(dims, keepdim=True)
    rstd = (var + eps) ** -0.5
    x_hat = (x - mean) * rstd
    dx_hat = dy * _wide(weight, x)
    dvar = (dx_hat * (x - mean)).sum(dims, keepdim=True) * -0.5 * rstd**3
    dmean = (-dx_hat * rstd).sum(dims, keepdim=True) + dvar * (-2 * (x - mean)).sum(dims, keepdim=True) / m
    dx = dx_hat * rstd + dvar * 2 * (x - mean) / m + dmean / m
    return dx, (dy * x_hat).sum(dims), dy.sum(dims)


def _one_step(norm: Norm, x: Tensor) -> tuple[float, float]:
    """Compare the forward with Algorithm 1, and both backwards (layer, autograd of Algorithm 1) with the chain rule."""
    layer = _layer(norm, x.shape[1])
    weight, bias = (parameter.detach().clone().requires_grad_() for parameter in (layer.weight, layer.bias))
    x1, x2, dy = x.clone().requires_grad_(), x.clone().requires_grad_(), torch.randn_like(x)
    y, expected = layer(x1), normalize(x2, weight, bias, layer.eps)
    y.backward(dy)
    expected.backward(dy)
    rule = gradients(x, dy, weight.detach(), layer.eps)
    found = [(x1.grad, layer.weight.grad, layer.bias.grad), (x2.grad, weight.grad, bias.grad)]
    return _error(y, expected), max(_error(a, b) for grads in found for a, b in zip(grads, rule, strict=True))


def _identity(norm: Norm, x: Tensor) -> float:
    """Check that weight = sqrt(var + eps) and bias = mean give back the input."""
    layer, dims = _layer(norm, x.shape[1]), [0, *range(2, x.dim())]
    with torch.no_grad():
        layer.weight.copy_((x.var(dims, unbiased=False) + layer.eps).sqrt())
        layer.bias.copy_(x.mean(dims))
        return _error(layer(x), x)


@torch.no_grad()
def _inference(norm: Norm, x: Tensor) -> float:
    """Check that evaluation is y = a · x + b, also for a single sample, and folded into the layer before it."""
    channels = x.shape[1]
    layer = _layer(norm, channels)
    layer(x)
    layer.eval()
    a = layer.weight * (layer.running_var + layer.eps) ** -0.5
    b = layer.bias - a * layer.running_mean
    apply: Callable[..., Tensor] = F.conv2d if x.dim() == 4 else F.linear
    kernel = torch.randn(channels, channels, *[1] * (x.dim() - 2)).double()
    folded = apply(x, kernel * a.view(-1, *[1] * (kernel.dim() - 1)), b)
    return max(
        _error(layer(x), _wide(a, x) * x + _wide(b, x)),
        _error(layer(x[:1]), layer(x)[:1]),
        _error(layer(apply(x, kernel)), folded),
    )


@torch.no_grad()
def _worked_example(norm: Norm) -> tuple[float, int]:
    """Work out an example: three images of three channels of 2×2, numbers 1 to 36, 12 values per channel."""
    x = torch.arange(1.0, 37.0).double().view(3, 3, 2, 2)
    layer = norm(3, dtype=torch.float64)
    y = layer(x)
    error = 0.0
    for channel in range(3):
        values = x[:, channel].flatten().tolist()
        mean, std = statistics.fmean(values), (statistics.pvariance(values) + layer.eps) ** 0.5
        expected = torch.tensor([(value - mean) / std for value in values], dtype=torch.float64)
        error = max(error, _error(y[:, channel].flatten(), expected))
    return error, layer.values_per_statistic(x.shape)


def _bias(norm: Norm, kind: str) -> tuple[float, float]:
    """Check that a bias before the norm changes no output and gets no gradient."""
    apply, u, kernel = _before(kind)
    bias = (10 * torch.randn(len(kernel)).double()).requires_grad_()
    layer = _layer(norm, len(kernel))
    y = layer(apply(u, kernel, bias))
    y.backward(torch.randn_like(y))
    assert bias.grad is not None
    return _error(y, layer(apply(u, kernel))), float(bias.grad.abs().max())


def _before(kind: str) -> tuple[Callable[..., Tensor], Tensor, Tensor]:
    """Return a layer function to put before a norm of three channels, its input and its weight."""
    if kind == "conv":
        return F.conv2d, torch.randn(3, 2, 4, 3).double(), torch.randn(3, 2, 2, 2).double()
    return F.linear, torch.randn(8, 4).double(), torch.randn(3, 4).double()


@torch.no_grad()
def _moving_averages(norm: Norm, steps: int, *, takes_fraction: bool) -> dict[str, Any]:
    """Compare running statistics after a stream of batches with their definitions, and record their path."""
    made: dict[str, dict[str, float | None]] = {
        "torch": {"momentum": 0.1},
        "fraction": {"momentum": 1 - FRACTION},
        "cumulative": {"momentum": None},
    }
    if takes_fraction:
        made["caffe"] = {"moving_average_fraction": FRACTION}
    layers = {name: norm(2, dtype=torch.float64, **options) for name, options in made.items()}
    batches = 3 + 2 * torch.randn(steps, 32, 2).double()
    paths: dict[str, list[float]] = {name: [] for name in ("torch", "fraction", "caffe", "cumulative")}
    total, weights = torch.zeros(2, 2).double(), 0.0  # Caffe's two sums
    for batch in batches:
        new = torch.stack([batch.mean(0), batch.var(0)])
        total, weights = FRACTION * total + new, FRACTION * weights + 1
        for name, layer in layers.items():
            layer(batch)
            paths[name].append(float(layer.running_mean[0]))
        if not takes_fraction:
            paths["caffe"].append(float((total / weights)[0, 0]))
    each = torch.stack([batches.mean(1), batches.var(1)])  # (2, steps, channels)
    start = torch.stack([torch.zeros(2), torch.ones(2)]).double()
    left = 0.9 ** torch.arange(steps - 1, -1, -1).double()
    exponential = 0.9**steps * start + 0.1 * (left[:, None] * each).sum(1)
    kept = {name: torch.stack([layer.running_mean, layer.running_var]) for name, layer in layers.items()}
    unstarted = (kept["fraction"] - FRACTION**steps * start) / (1 - FRACTION**steps)
    caffe = _error(unstarted, total / weights)
    errors = {
        "moving_average_torch": _error(kept["torch"], exponential),
        "moving_average_caffe": max(caffe, _error(kept["caffe"], total / weights)) if takes_fraction else caffe,
        "moving_average_cumulative": _error(kept["cumulative"], each.mean(1)),
    }
    return {"errors": errors, **{f"running_mean_{name}": path for name, path in paths.items()}, "true_mean": [3.0]}


def _scale_invariance(norm: Norm, kind: str) -> dict[str, Any]:
    """Check BN((aW)u) = BN(Wu) and both Jacobians, that in aW divided by a; record the deviation with an eps."""
    apply, u, kernel = _before(kind)
    exact, usual = norm(3, dtype=torch.float64, eps=TINY), norm(3, dtype=torch.float64)
    plain = _jacobians(exact, apply, kernel, u)
    errors = dict.fromkeys(
        (f"scale_output_{kind}", f"scale_input_jacobian_{kind}", f"scale_weight_jacobian_{kind}"), 0.0
    )
    departure = []
    for a in SCALES:
        y, by_input, by_weight = _jacobians(exact, apply, a * kernel, u)
        found = (_error(y, plain[0]), _error(by_input, plain[1]), _error(a * by_weight, plain[2]))
        errors = {name: max(error, now) for (name, error), now in zip(errors.items(), found, strict=True)}
        departure.append(_error(usual(apply(u, a * kernel)), usual(apply(u, kernel))))
    return {"errors": errors, "scales": SCALES, "departure_with_eps": departure}


def _jacobians(
    layer: nn.Module, apply: Callable[..., Tensor], kernel: Tensor, u: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    def output(weight: Tensor, inputs: Tensor) -> Tensor:
        return layer(apply(inputs, weight))

    by_weight, by_input = torch.autograd.functional.jacobian(output, (kernel, u))
    return output(kernel, u), by_input, by_weight


def _layer(norm: Norm, channels: int) -> Any:
    layer: Any = norm(channels, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(1 + torch.rand(channels))
        layer.bias.copy_(torch.randn(channels))
    return layer


def _wide(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.dim() - 2))


def _error(found: Tensor, expected: Tensor) -> float:
    with torch.no_grad():
        return float((found - expected).abs().max() / expected.abs().max().clamp(min=1))
