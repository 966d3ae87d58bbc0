"""Collect the statistics of all that the norms of a model get, batch by batch."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from normzoo.norms._standardize import centre
from normzoo.registry import facts_of
from normzoo.surgery.identify import identify
from normzoo.surgery.running import running_statistics


def _mean_square(n: Tensor, mean: Tensor, m2: Tensor) -> Tensor:
    return m2 / n + mean.square()


STATISTICS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "running_mean": lambda n, mean, m2: mean,
    "running_var": lambda n, mean, m2: m2 / (n - 1).clamp(min=1),
    "running_power": _mean_square,
    "running_moment": _mean_square,
}
"""Running statistics that follow from count, mean and sum of squared deviations of all values of a channel."""


def moments_of(x: Tensor, channel_dim: int) -> Tensor:
    """Return count, mean and sum of squared deviations of each channel, (3, C)."""
    x = x.detach().movedim(channel_dim, 1)
    wide = torch.float32 if x.device.type == "mps" else torch.float64
    if not x.numel():
        return torch.zeros(3, x.shape[1], dtype=wide, device=x.device)
    dims = (0, *range(2, x.dim()))
    centred, mean = centre(x, dims)
    m2 = centred.square().sum(dims).to(wide)
    return torch.stack([torch.full_like(m2, x.numel() // x.shape[1]), mean.flatten().to(wide), m2])


def merge(a: Tensor, b: Tensor) -> Tensor:
    """Merge the moments of two sets of values, by the law of total variance; each (3, *).

    Source: Chan, Golub & LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.
    """
    (n_a, mean_a, m2_a), (n_b, mean_b, m2_b) = a, b
    n = n_a + n_b
    share, delta = n_b / n.clamp(min=1), mean_b - mean_a
    return torch.stack([n, mean_a + delta * share, m2_a + m2_b + delta.square() * n_a * share])


class Population:
    """What one layer has got so far, and its state from before.

    The layer runs in training mode, as it was trained. Statistics in `STATISTICS` are those of all values, taken from
    the inputs; a layer that trains on its running statistics finds in them the population so far, this batch included.
    Other statistics, and those of each instance, are averages of what the layer writes for each batch, weighted by its
    size. Which of the two a layer has that is not registered here, its first batch tells.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer, self.statistic_of = layer, running_statistics(layer)
        self.names = list(self.statistic_of)
        self.saved = {name: buffer.clone() for name, buffer in layer.named_buffers(recurse=False)}
        self.training, self.momentum = layer.training, getattr(layer, "momentum", None)  # type: bool, Any
        self.batches, self.channel_dim = 0, getattr(layer, "channel_dim", 1)
        self.pooled: bool | None = None
        facts = facts_of(layer)
        if not set(self.statistic_of.values()) <= set(STATISTICS):
            self.pooled = False
        elif facts:
            self.pooled = facts.batch_dependent
        elif isinstance(layer, nn.SyncBatchNorm):
            self.pooled = True  # it writes those of all processes
        elif not hasattr(layer, "momentum"):
            self.pooled = True  # it is identified by its equation
            self.channel_dim = identify(layer).channel_dim
        first = self.saved[self.names[0]]
        wide = torch.float32 if first.device.type == "mps" else torch.float64
        # Of each of the parts of a batch that have statistics of their own, such as domains.
        self.moments = first.new_zeros(3, *(first.shape if first.dim() > 1 else (1, *first.shape)), dtype=wide)
        self.values = 0  # that the averages are over
        self.sums = {name: torch.zeros_like(self.saved[name], dtype=wide) for name in self.names}

    @torch.no_grad()
    def before(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Serve as the layer's forward pre-hook."""
        x = args[0] if args else next(iter(kwargs.values()), None)
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2:
            return
        if self.pooled is None:
            self.pooled = self._is_pooled(x, args, kwargs)
        if self.pooled:
            parts = layer.tracked_inputs(*args, **kwargs) if hasattr(layer, "tracked_inputs") else [x]  # type: ignore[operator]
            own = torch.stack([moments_of(part, self.channel_dim) for part in parts], dim=1)
            if own.shape != self.moments.shape:
                return  # the layer itself will refuse it
            self.moments = merge(self.moments, own)
            self._load(self.statistics())
        else:
            layer.momentum = 1.0  # type: ignore[assignment]  # it writes the batch's own statistics
        self.batches += bool(x.numel())

    @torch.no_grad()
    def after(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _: Any) -> None:
        """Serve as the layer's forward hook."""
        x = args[0] if args else next(iter(kwargs.values()), None)
        if self.pooled is not False or not isinstance(x, Tensor) or not x.numel():
            return
        self.values += x.numel()
        for name, total in self.sums.items():
            total += x.numel() * layer.get_buffer(name)

    def _is_pooled(self, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Return whether the layer writes the statistics of all values of a channel, as it does for this batch."""
        if x.numel() == 0 or x.shape[1] != self.saved[self.names[0]].numel():
            return False
        state = {name: buffer.clone() for name, buffer in self.layer.named_buffers(recurse=False)}
        self.layer.momentum = 1.0  # type: ignore[assignment]
        try:
            own = (x.clone(), *args[1:]) if args else args  # a layer may write over its input
            self.layer.forward(*own, **kwargs)
            written = {name: self.layer.get_buffer(name).clone() for name in self.names}
        finally:
            self.layer.momentum = self.momentum
            self._load(state)
        moments = moments_of(x, 1)
        expected = {name: STATISTICS[statistic](*moments) for name, statistic in self.statistic_of.items()}
        # Half precision has three digits.
        return all(torch.allclose(expected[n], w.to(moments.dtype), rtol=1e-3, atol=1e-6) for n, w in written.items())

    def statistics(self) -> dict[str, Tensor]:
        """Return the running statistics of all that the layer has got; those of before where it has got nothing."""
        if not self.pooled:
            return {name: total / self.values for name, total in self.sums.items() if self.values}
        n, mean, m2 = self.moments
        found = {}
        for name, statistic in self.statistic_of.items():
            old, new = self.saved[name], STATISTICS[statistic](n.clamp(min=1), mean, m2)
            found[name] = torch.where(n > 0, new, old.to(n.dtype).view(n.shape)).view(old.shape)
        return found

    def restore(self) -> None:
        """Put the layer's state back."""
        self.layer.training = self.training
        if hasattr(self.layer, "momentum"):
            self.layer.momentum = self.momentum
        self._load(self.saved)

    def finish(self) -> None:
        """Give the layer the statistics.

        The number of batches, on which a schedule may depend, stays, unless it was 0: there are statistics now.
        """
        self._load(self.statistics())
        count = self.saved.get("num_batches_tracked")
        if count is not None:
            got = self.moments[0].amax(1).reshape(count.shape) > 0 if count.dim() else torch.tensor(self.batches > 0)
            self._load({"num_batches_tracked": torch.where((count == 0) & got.to(count.device), self.batches, count)})

    def is_finite(self) -> bool:
        """Return whether the layer's running statistics are finite."""
        return all(bool(self.layer.get_buffer(name).isfinite().all()) for name in self.names)

    def _load(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            # By way of `data`, unseen by autograd, as the kernels of torch write running statistics.
            self.layer.get_buffer(name).data.copy_(value)


@contextlib.contextmanager
def collecting(layers: Iterable[nn.Module]) -> Iterator[list[Population]]:
    """Collect what these layers get within the context, and put their state back on leaving it.

    All processes have then what each of them got, and `Population.finish` gives it to a layer.

    Raises:
        RuntimeError: If another process has failed.
    """
    populations = [Population(layer) for layer in layers]
    handles = []
    try:
        for population in populations:
            layer = population.layer
            layer.training = True  # not that of its children, such as dropout
            handles.append(layer.register_forward_pre_hook(population.before, with_kwargs=True))
            handles.append(layer.register_forward_hook(population.after, with_kwargs=True))
        try:
            yield populations
        except Exception:
            _gather(populations, failed=True)
            raise
        _gather(populations)
    finally:
        for handle in handles:
            handle.remove()
        for population in populations:
            population.restore()


def _gather(populations: list[Population], *, failed: bool = False) -> None:
    """Give each process what all of them have got, in the order of their ranks."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return
    own = [
        (p.batches, p.pooled, p.moments.cpu(), p.values, {n: t.cpu() for n, t in p.sums.items()}) for p in populations
    ]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, None if failed else own)
    if failed:
        return
    if None in gathered:
        raise RuntimeError(f"process {gathered.index(None)} has failed over its batches; see its own error")
    for population, states in zip(populations, zip(*gathered, strict=True), strict=True):
        batches, pooled, moments, values, sums = zip(*states, strict=True)
        population.batches, population.values = sum(batches), sum(values)
        population.pooled = next((each for each in pooled if each is not None), None)
        population.moments = functools.reduce(merge, moments).to(population.moments.device)
        for name, total in population.sums.items():
            total.copy_(sum(each[name] for each in sums))
