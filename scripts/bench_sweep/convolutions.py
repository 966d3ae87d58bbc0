"""Compare the convolution rule of `normzoo.training.small_batches` with measured times on small batches."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.backends import mkldnn

from normzoo.bench.measure import Ratio, Step, time_in_turn
from normzoo.bench.measurement import Measurement
from normzoo.models.inception import Inception
from normzoo.models.lenet5 import LeNet5
from normzoo.models.plain_cnn import PlainCNN
from normzoo.models.resnet import ResNet
from normzoo.models.vgg import VGG
from normzoo.training.shape_trace import trace_shapes
from normzoo.training.small_batches import WithoutOneDNN, convolving


def _no_norm(channels: int) -> nn.Module:
    return nn.Identity()


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain_cnn": lambda: PlainCNN(_no_norm, in_channels=1, num_classes=10),
    "lenet5": lambda: LeNet5(_no_norm, in_channels=1, num_classes=10),
    "vgg": lambda: VGG(_no_norm, in_channels=1, num_classes=10),
    "resnet": lambda: ResNet(_no_norm, in_channels=1, num_classes=10, depth=8),
    "inception": lambda: Inception(
        _no_norm, in_channels=1, num_classes=10, stem="small", modules=("3a", "3c", "4a", "4e", "5a"), width=0.25
    ),
}
SIDES = {"lenet5": (28,)}  # pixels; of all other models these:
ALL_SIDES = (8, 16, 28)
BATCHES = (2, 4, 8, 16, 32)


@dataclass(frozen=True)
class _Convolved(Step):
    """A step that is convolved without oneDNN if it is `small`, forward and backward."""

    small: bool = False

    def __call__(self, grad: Tensor) -> tuple[float, float]:
        with WithoutOneDNN(small=self.small):
            return super().__call__(grad)


def cases(models: Sequence[str] = tuple(MODELS)) -> Iterator[tuple[str, int, int]]:
    """Yield model, image side and batch size."""
    return ((model, side, batch) for model in models for side in SIDES.get(model, ALL_SIDES) for batch in BATCHES)


def small_batches(listed: Sequence[tuple[str, int, int]] | None = None, rounds: int = 3) -> Measurement:
    """Measure the time of a step by the rule relative to the faster of the two ways; geometric mean over the cases.

    Args:
        listed: The cases; None for all.
        rounds: How often to measure each way in each case, in turn.
    """
    name, target = "convolving by the rule, to the faster way", 1.1
    if not mkldnn.is_available() or not mkldnn.enabled or torch.backends.flags_frozen():
        return Measurement(name, "×", target, True, (), "this torch has no oneDNN that could be done without")
    listed = listed or tuple(cases())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a cell has
    try:
        told = [_told(*case, rounds) for case in listed]
    finally:
        torch.set_num_threads(threads)
    return Measurement(
        name, "×", target, True, (statistics.geometric_mean(one.to_faster for one in told),), _note(told)
    )


@dataclass(frozen=True)
class _Told:
    """Of one case: whether the rule does without oneDNN, and the time of its way relative to that of the other."""

    model: str
    side: int
    batch: int
    small: bool
    to_other: float

    @property
    def to_faster(self) -> float:
        return max(1.0, self.to_other)

    def __str__(self) -> str:
        return f"{self.model} {self.side} px batch {self.batch} {self.to_other:.2f}"


def _note(told: Sequence[_Told]) -> str:
    models, sides, batches = ([getattr(one, name) for one in told] for name in ("model", "side", "batch"))
    without = [one.to_other for one in told if one.small]
    slower = sorted((one for one in told if one.to_other > 1.1), key=lambda one: -one.to_other)
    note = f"forward and backward of {', '.join(dict.fromkeys(models))} without norms on one thread, images of "
    note += (
        f"{_range(sides)} pixels, batches of {_range(batches)}; {len(without)} of {len(told)} cases do without oneDNN"
    )
    if without:
        note += f", in {min(without):.2f} to {max(without):.2f} of its time"
    if slower:
        note += f"; more than a tenth slower than the other way: {', '.join(map(str, slower))}"
    return note


def _range(values: Sequence[int]) -> str:
    return f"{min(values)} to {max(values)}" if len(set(values)) > 1 else str(values[0])


def _told(model: str, side: int, batch: int, rounds: int) -> _Told:
    torch.manual_seed(0)
    net, x = MODELS[model]().train(), torch.randn(batch, 1, side, side)
    small = convolving(batch, trace_shapes(net, x).multiply_adds).small

    def layer(nothing: Tensor) -> Tensor:
        return nothing + net(x).logsumexp(1).mean()  # images have no gradient, and the first input of a step needs one

    inputs, parameters = (torch.zeros((), requires_grad=True),), tuple(net.parameters())
    ways = {way: _Convolved(layer, inputs, parameters, small=way == "plain") for way in ("plain", "oneDNN")}
    times = time_in_turn(ways, rounds)
    ratio = Ratio.of(times["plain"].both, times["oneDNN"].both).median
    return _Told(model, side, batch, small, ratio if small else 1 / ratio)
