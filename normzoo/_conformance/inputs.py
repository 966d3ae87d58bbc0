"""What a norm does with inputs of every form: memory formats, strides, sizes, ranks."""

import copy
import itertools
from collections.abc import Sequence
from unittest import SkipTest

import torch
from torch import Tensor, nn

from normzoo._conformance.subject import EXACT, Subject, cast, part, run, same, state_of

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
# Far beyond what mean(x²) − mean(x)² bears, where the dtype holds such values at all.
OFFSETS = ((torch.float64, 1e8), (torch.float32, 1e4), (torch.float16, 60), (torch.bfloat16, 60))


def leaves_inputs_alone(norm: Subject) -> None:
    """No input is written, and a second forward before the backward does not disturb the first one's gradient."""
    given, second = norm.given(), norm.given(seed=1)
    for layer in norm.modes():

        def twice(*given: Tensor, layer: nn.Module = layer) -> Tensor:
            y = layer(*given)
            layer(*second)
            return y

        kept = [tensor.clone().requires_grad_(tensor.is_floating_point()) for tensor in given]
        expected = run(copy.deepcopy(layer), given)
        same(run(twice, kept), expected, "two forwards", EXACT)
        for title, tensor, old in zip(("input", "condition"), kept, norm.given(), strict=False):
            assert torch.equal(tensor, old), f"the {title} is written"


def keeps_channels_last(norm: Subject) -> None:
    """A channels_last input gives a channels_last output, and the values of a contiguous one."""
    ranks = [r for r in norm.info.ranks if r in CHANNELS_LAST and norm.x(r).shape[1] == norm.num_features]
    if not ranks:
        raise SkipTest("takes no input that has a channels_last format")
    if norm.info.kind == "weight":
        ranks = [norm.rank]
    for rank, layer in itertools.product(ranks, norm.modes()):
        x, *condition = norm.given(rank)
        expected = run(copy.deepcopy(layer), (x, *condition))
        actual = run(layer, (x.contiguous(memory_format=CHANNELS_LAST[rank]), *condition))
        same(actual, expected, f"rank {rank}", EXACT)
        strides = f"the output of rank {rank} has the strides {actual[0].stride()}"
        assert actual[0].is_contiguous(memory_format=CHANNELS_LAST[rank]), strides


def refuses_other_numbers(norm: Subject) -> None:
    """Whole numbers, booleans and complex numbers are refused, in training and evaluation."""
    norm.skip_weights()
    x, *condition = norm.given()
    for dtype, layer in itertools.product((torch.uint8, torch.int64, torch.bool, torch.complex64), norm.modes()):
        said = refusal(layer, (x.abs().to(dtype), *condition), TypeError, RuntimeError)
        assert said, f"{dtype} is not refused, training={layer.training}"


def huge_offset(norm: Subject) -> None:
    """An offset costs output and gradients no more than rounding the input does, in each memory format and dtype."""
    norm.skip_weights()
    formatted = [r for r in norm.info.ranks if r in CHANNELS_LAST and norm.x(r).shape[1] == norm.num_features]
    for rank, (dtype, offset) in itertools.product(formatted or [norm.rank], OFFSETS):
        x, *condition = norm.given(rank)
        given, eps = cast((x + offset, *condition), dtype), torch.finfo(dtype).eps
        wide = cast(given, torch.float64)
        rounded = (wide[0] * (1 + eps / 2 * torch.sign(norm.x(rank, seed=1))), *wide[1:])
        for layer in norm.modes(dtype):
            exact, moved = (with_gradients(copy.deepcopy(layer).double(), each) for each in (wide, rounded))
            for form, view in memory_formats(given[0]).items():
                actual = with_gradients(copy.deepcopy(layer), (view, *given[1:]))
                for what, value in actual.items():
                    largest = max(1.0, exact[what].abs().max().item())
                    if largest > torch.finfo(dtype).max:
                        continue  # not to be written in this dtype
                    error = (value.double() - exact[what]).abs().max().item()
                    allowed = 8 * ((moved[what] - exact[what]).abs().max().item() + eps * largest)
                    assert error <= allowed, (
                        f"{dtype} of mean {offset:g} and standard deviation 2, {form}, rank {rank}, training="
                        f"{layer.training}: {what} is off by {error:.2g}, where rounding the input makes {allowed:.2g}"
                    )


def with_gradients(layer: nn.Module, given: Sequence[Tensor]) -> dict[str, Tensor]:
    names, parameters = zip(*layer.named_parameters(), strict=True) if list(layer.parameters()) else ((), ())
    titles = ["the output", "the gradient of the input", *["the gradient of the condition"] * (len(given) - 1)]
    values = run(layer, given, parameters)
    return dict(
        zip([*titles[: len(values) - len(names)], *(f"the gradient of {n}" for n in names)], values, strict=True)
    )


def memory_formats(x: Tensor) -> dict[str, Tensor]:
    """`x` as it is and, where it has channels, channels_last, alone in memory and as a slice of more channels."""
    if x.dim() not in CHANNELS_LAST:
        return {"contiguous": x}
    last = torch.cat([x, x], dim=1).contiguous(memory_format=CHANNELS_LAST[x.dim()])
    whole = x.contiguous(memory_format=CHANNELS_LAST[x.dim()])
    return {"contiguous": x, "channels_last": whole, "a slice in channels_last": last[:, : x.shape[1]]}


def takes_any_strides(norm: Subject) -> None:
    """Sliced, transposed and expanded inputs give what their contiguous copies do."""
    x, *condition = norm.given()
    views = {
        "sliced": torch.stack([x, x], dim=-1)[..., 0],
        "transposed": x.transpose(0, -1).contiguous().transpose(0, -1),
        "expanded": (x[:1] + 0).expand_as(x),
    }
    for (how, view), layer in itertools.product(views.items(), norm.modes()):
        expected = run(copy.deepcopy(layer), (view.contiguous(), *condition))
        same(run(layer, (view, *condition)), expected, how, EXACT)


def empty_batch(norm: Subject) -> None:
    """A batch of no samples gives an empty output and gradient, and leaves gradients and state finite."""
    for layer in norm.modes():
        given = part(norm.given(), slice(0))
        x = given[0]
        y, grad_x, *grads = run(layer, given, layer.parameters())
        assert y.shape == grad_x.shape == x.shape, f"output {tuple(y.shape)}, gradient {tuple(grad_x.shape)}"
        for tensor in (*grads, *layer.state_dict().values()):
            assert torch.isfinite(tensor).all(), "a gradient or a buffer is not finite"


def constant_input(norm: Subject) -> None:
    """A constant input, which no variance divides, gives finite outputs and gradients and leaves the state finite."""
    for value, layer in itertools.product((0.0, 3.0), norm.modes(torch.float32)):
        x, *condition = cast(norm.given(), torch.float32)
        y, *grads = run(layer, (torch.full_like(x, value), *condition), layer.parameters())
        where = f"an input of {value:g} everywhere, training={layer.training}"
        assert torch.isfinite(y).all(), f"{where}, gives an output that is not finite: is there an eps in the divisor?"
        assert all(torch.isfinite(grad).all() for grad in grads), f"{where}, gives a gradient that is not finite"
        for name, tensor in state_of(layer).items():
            assert torch.isfinite(tensor).all(), f"{where}, leaves {name} not finite"


def one_sample(norm: Subject) -> None:
    """One sample gives a finite output, or a ValueError with the shape where a statistic has too few values."""
    lacks = "state minimum_count, the fewest values a statistic may have, and add a method values_per_statistic(shape)"
    for rank, single in itertools.product(norm.info.ranks, (False, True)):
        layer, positions = norm.layer(rank=rank), [1] * (rank - 2) if single else None
        x, *condition = norm.given(rank, batch=1, positions=positions)
        shape = tuple(x.shape)
        count = getattr(layer, "values_per_statistic", lambda shape: None)(x.shape)
        least = getattr(layer, "minimum_count", norm.info.minimum_count)
        assert count or least == 1, (
            f"minimum_count={least} needs a method values_per_statistic(shape), which is missing"
        )
        said = refusal(layer, (x, *condition), ValueError)
        if count is None or count >= least:
            assert not said, f"{shape} is refused, with minimum_count={least} and {count} values a statistic: {lacks}"
            y = norm.layer(rank=rank)(x, *condition)
            assert torch.isfinite(y).all(), f"{shape} gives an output that is not finite"
            other = norm.layer(rank=rank)(norm.x(rank, 1, 1, positions), *condition)
            assert not torch.allclose(other, y, rtol=EXACT), f"{shape} gives the same whatever its values: {lacks}"
            continue
        values = "1 value" if count == 1 else f"{count} values"
        assert said, f"{shape} leaves {values} to a statistic, and is not refused"
        assert str(shape) in said, f"the refusal of {shape} does not name the shape: {said}"


def ranks_as_stated(norm: Subject) -> None:
    """Inputs of the stated ranks keep their shape; smaller and other ones between are refused."""
    norm.skip_weights()
    for rank in range(1, max(norm.info.ranks) + 1):
        layer = norm.layer()
        if rank in norm.info.ranks:
            x, *condition = norm.given(rank)
            shape = layer(x, *condition).shape
            assert shape == x.shape, f"{tuple(x.shape)} gives {tuple(shape)}"
        elif norm.info.reduces_over != "-":
            x = norm.x(rank) if rank > 1 else norm.x()[:, 0].flatten()[: norm.num_features]
            assert refusal(layer, (x, *norm.given()[1:]), ValueError, RuntimeError, IndexError), (
                f"{tuple(x.shape)}, of rank {rank}, is not refused; ranks is {norm.info.ranks}"
            )


def refusal(layer: nn.Module, given: Sequence[Tensor], *errors: type[Exception]) -> str:
    """What the error says with which a layer refuses an input; nothing if it does not."""
    try:
        layer(*given)
    except errors as error:
        return str(error)
    return ""
