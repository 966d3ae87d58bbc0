"""Base of the normalizers: samples as rows, streams of batches, shapes, missing values, errors."""

from collections.abc import Callable, Iterable
from typing import Any, Self

import torch
from torch import Tensor, nn

from normzoo.errors import UserError

CHUNK = 8192  # samples converted to float64 at once
ANY = -1  # stands for any size of an image side


class Normalizer(nn.Module):
    """A transform of data with statistics in buffers; see `normzoo.preprocessing`.

    A subclass defines its buffers, and three functions of float64 rows, Shape (n, D): `_update`, `_transform` and
    `_inverse`.

    Args:
        per: `feature` or `channel`.
        nan: `ignore` or `error`.

    Raises:
        UserError: If an option is unknown; in use, if data have another shape than in the fit, or invalid values.
        RuntimeError: If it is used before it is fitted.
    """

    def __init__(self, per: str = "feature", nan: str = "ignore") -> None:
        super().__init__()
        self._name = type(self).__name__
        if per not in ("feature", "channel"):
            raise UserError(f"{self._name}: per={per!r} is unknown; choose feature or channel")
        if nan not in ("ignore", "error"):
            raise UserError(f"{self._name}: nan={nan!r} is unknown; choose ignore or error")
        self.per, self.nan = per, nan
        self.shape: Tensor
        self.register_buffer("shape", torch.empty(0, dtype=torch.int64))

    def fit(self, data: Tensor | Iterable[Any]) -> Self:
        """Reset and fit to a tensor or to batches; of a batch that is a tuple, to its first entry.

        Raises:
            UserError: If there is no sample, or a feature without any number.
        """
        self._forget()
        for batch in data.split(CHUNK) if isinstance(data, Tensor) else data:
            self.partial_fit(batch[0] if isinstance(batch, (tuple, list)) else batch)
        if not len(self.shape):
            raise UserError(f"{self._name}: no samples to fit to")
        return self

    def partial_fit(self, batch: Tensor) -> Self:
        """Add one batch to the fit, Shape (N, *) or (N, C, *)."""
        if batch.dim() < 2:
            raise UserError(f"{self._name}: a batch of shape {tuple(batch.shape)} has no features; pass (N, *)")
        sample = list(batch.shape[1:])
        if self.per == "channel":
            sample[1:] = [ANY] * (len(sample) - 1)
        if len(self.shape) and self.shape.tolist() != sample:
            raise self._misfit(batch, tuple(self.shape.tolist()))
        if len(batch):
            self.shape = torch.tensor(sample, device=batch.device)
            self._update(self._rows(batch))
        return self

    def fit_transform(self, x: Tensor) -> Tensor:
        """Fit to a tensor and transform it."""
        return self.fit(x)(x)

    def forward(self, x: Tensor) -> Tensor:
        """Transform a batch, or one sample."""
        sample = self._sample()
        return self._through(self._transform, x, sample, self._transformed(sample))

    def transform(self, x: Tensor) -> Tensor:
        """Transform a batch, or one sample; the same as calling the module."""
        return self(x)

    def inverse(self, x: Tensor) -> Tensor:
        """Invert the transform, for a batch or one sample."""
        sample = self._sample()
        return self._through(self._inverse, x, self._transformed(sample), sample)

    def _update(self, rows: Tensor) -> None:
        raise NotImplementedError

    def _transform(self, rows: Tensor) -> Tensor:
        raise NotImplementedError

    def _inverse(self, rows: Tensor) -> Tensor:
        raise NotImplementedError

    def _transformed(self, sample: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a transformed sample."""
        return sample

    def _forget(self) -> None:
        for name, buffer in list(self._buffers.items()):
            assert buffer is not None
            setattr(self, name, buffer.new_empty(0))

    def _sample(self) -> tuple[int, ...]:
        if not len(self.shape):
            raise RuntimeError(f"{self._name} is not fitted: call fit() or partial_fit() first")
        return tuple(self.shape.tolist())

    def _through(
        self, function: Callable[[Tensor], Tensor], x: Tensor, source: tuple[int, ...], target: tuple[int, ...]
    ) -> Tensor:
        alone = x.dim() == len(source)
        batch = x.unsqueeze(0) if alone else x
        if batch.dim() != len(source) + 1 or any(
            side not in (ANY, given) for side, given in zip(source, batch.shape[1:], strict=True)
        ):
            raise self._misfit(x, source)
        out = function(self._rows(batch))
        if self.per == "channel":
            out = out.view(len(batch), *batch.shape[2:], out.shape[1]).movedim(-1, 1)
        else:
            out = out.view(len(batch), *target)
        out = out.to(x.dtype if x.is_floating_point() else torch.get_default_dtype())
        return out.squeeze(0) if alone else out

    def _rows(self, batch: Tensor) -> Tensor:
        rows = (batch.movedim(1, -1).flatten(0, -2) if self.per == "channel" else batch.flatten(1)).double()
        if rows.isinf().any():
            raise UserError(f"{self._name}: the data contain infinite values; remove or replace them")
        if self.nan == "error" and rows.isnan().any():
            count = int(rows.isnan().sum())
            raise UserError(f"{self._name}: the data contain {count} NaN; remove them, or use nan='ignore'")
        return rows

    def _check_counts(self, count: Tensor) -> None:
        empty = (count == 0).nonzero().flatten().tolist()
        if empty:
            raise UserError(f"{self._name}: {self.per} {empty[0]} was always NaN in the fit; remove it")

    def _misfit(self, x: Tensor, sample: tuple[int, ...]) -> UserError:
        sides = ", ".join("any" if side == ANY else str(side) for side in sample)
        return UserError(f"{self._name} expects samples of shape ({sides}), or batches of them, got {tuple(x.shape)}")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Before a fit the buffers are empty; give them the shapes of the saved ones.
        for name, buffer in list(self._buffers.items()):
            if prefix + name in state_dict:
                assert buffer is not None
                setattr(self, name, buffer.new_empty(state_dict[prefix + name].shape))
        super()._load_from_state_dict(state_dict, prefix, *args)
