"""Normalizers of one feature, or one sample, at a time: min-max, z-score, L2."""

import torch
from torch import Tensor

from normzoo.errors import UserError
from normzoo.preprocessing._normalizer import Normalizer


class MinMax(Normalizer):
    """Scale each feature to a range.

        y = low + (high - low) (x - min) / (max - min)

    A constant feature becomes `low`. Values beyond those of the fit fall outside the range.

    Shape: `(N, *) -> (N, *)`, or one sample

    Args:
        low, high: The range.
        per, nan: See `normzoo.preprocessing`.
    """

    def __init__(self, low: float = 0.0, high: float = 1.0, *, per: str = "feature", nan: str = "ignore") -> None:
        super().__init__(per, nan)
        if not low < high:
            raise UserError(f"MinMax: low={low!r} must be below high={high!r}")
        self.low, self.high = low, high
        self.min: Tensor
        self.max: Tensor
        for name in ("min", "max"):
            self.register_buffer(name, torch.empty(0, dtype=torch.float64))

    def _update(self, rows: Tensor) -> None:
        low = rows.nan_to_num(nan=torch.inf).amin(0)
        high = rows.nan_to_num(nan=-torch.inf).amax(0)
        self.min = torch.minimum(self.min, low) if len(self.min) else low
        self.max = torch.maximum(self.max, high) if len(self.max) else high

    def _scale(self) -> Tensor:
        self._check_counts(self.min.isfinite())
        width = self.max - self.min
        return (self.high - self.low) / torch.where(width == 0, 1.0, width)

    def _transform(self, rows: Tensor) -> Tensor:
        return self.low + (rows - self.min) * self._scale()

    def _inverse(self, rows: Tensor) -> Tensor:
        return self.min + (rows - self.low) / self._scale()


class ZScore(Normalizer):
    """Scale each feature to mean 0 and variance 1.

        y = (x - mean) / sqrt(var)

    A feature that is constant up to rounding becomes 0.

    Shape: `(N, *) -> (N, *)`, or one sample

    Args:
        per, nan: See `normzoo.preprocessing`.
    """

    def __init__(self, *, per: str = "feature", nan: str = "ignore") -> None:
        super().__init__(per, nan)
        self.count: Tensor
        self.mean: Tensor
        self.m2: Tensor  # the sum of squared distances from the mean
        for name in ("count", "mean", "m2"):
            self.register_buffer(name, torch.empty(0, dtype=torch.float64))

    def _update(self, rows: Tensor) -> None:
        there = ~rows.isnan()
        count = there.sum(0).double()
        mean = rows.nansum(0) / count.clamp(min=1)
        m2 = torch.where(there, rows - mean, 0.0).square().sum(0)
        if not len(self.count):
            self.count, self.mean, self.m2 = count, mean, m2
            return
        total, delta = self.count + count, mean - self.mean
        share = count / total.clamp(min=1)
        self.mean = self.mean + delta * share
        self.m2 = self.m2 + m2 + delta.square() * self.count * share
        self.count = total

    def _std(self) -> Tensor:
        self._check_counts(self.count)
        # The variance that rounding the mean of equal values leaves, over as many additions.
        rounding = (self.count * torch.finfo(torch.float64).eps * self.mean).square()
        var = self.m2 / self.count
        return torch.where(var <= rounding, 1.0, var).sqrt()

    def _transform(self, rows: Tensor) -> Tensor:
        return (rows - self.mean) / self._std()

    def _inverse(self, rows: Tensor) -> Tensor:
        return rows * self._std() + self.mean


class L2(Normalizer):
    """Scale each sample to L2 norm 1 (`per="feature"`), or the channels at each position (`per="channel"`).

        y = x / sqrt(Σ x²),  Σ over the sample, or over the channels

    A fit only records the shape of a sample; without one the input is a batch (N, *) or one vector. A zero sample stays
    zero. The norms are not kept, so there is no inverse. A NaN makes its sample NaN.

    A tutorial's example has the vector
    [0.0066, 0.0004, 0.0085, 0.0093, 0.0068, 0.0076, 0.0074, 0.0039, 0.0066, 0.0017].
    Its norm is 0.0206, so it is not normalized; the normalized vector, of it as of every positive multiple, is
    [0.3209, 0.0195, 0.4133, 0.4522, 0.3307, 0.3696, 0.3599, 0.1897, 0.3209, 0.0827].

    Shape: `(N, *) -> (N, *)`, or one sample after a fit

    Args:
        per, nan: See `normzoo.preprocessing`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize a batch or, after a fit, one sample."""
        if len(self.shape):
            return super().forward(x)
        sample = tuple(x.shape[1:]) or tuple(x.shape)
        return self._through(self._transform, x, sample, sample)

    def inverse(self, x: Tensor) -> Tensor:
        """Raise an error: the norms are lost."""
        raise UserError("L2 has no inverse, because it does not keep the norms; keep them yourself: x.norm(dim=1)")

    def _update(self, rows: Tensor) -> None:
        pass

    def _transform(self, rows: Tensor) -> Tensor:
        length = rows.square().sum(1, keepdim=True).sqrt()
        return rows / torch.where(length == 0, 1.0, length)
