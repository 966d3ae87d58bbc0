"""Normalizers of all features together: ZCA and PCA whitening."""

import torch
from torch import Tensor

from normzoo.errors import UserError
from normzoo.preprocessing._normalizer import Normalizer


class ZCAWhitening(Normalizer):
    """Whiten the features to covariance I, as close to the data as possible.

        y = U Λ^(-1/2) Uᵀ (x - mean),  U Λ Uᵀ = the covariance of the features

    Directions without variance (λ at most `tolerance` of the largest, such as a constant feature) become 0, and the
    inverse sets them to the mean.

    Shape: `(N, *) -> (N, *)`, or one sample; `per="channel"` whitens the colours of pixels

    Args:
        eps: Added to each λ, in units of the data's variance, so that noise in small directions is not amplified.
        tolerance: Share of the largest λ that counts as zero.
        per, nan: See `normzoo.preprocessing`.

    Source: Bell & Sejnowski 1997, The "independent components" of natural scenes are edge filters; Krizhevsky 2009,
    Learning multiple layers of features from tiny images, appendix A.
    """

    def __init__(
        self, *, eps: float = 0.0, tolerance: float = 1e-10, per: str = "feature", nan: str = "ignore"
    ) -> None:
        super().__init__(per, nan)
        if not (eps >= 0 and tolerance >= 0):
            raise UserError(f"{self._name}: eps={eps!r} and tolerance={tolerance!r} must be at least 0")
        self.eps, self.tolerance = eps, tolerance
        self.count: Tensor
        self.mean: Tensor
        self.scatter: Tensor  # the sum of products of distances from the mean
        for name in ("count", "mean", "scatter"):
            self.register_buffer(name, torch.empty(0, dtype=torch.float64))
        self._found: tuple[Tensor, Tensor, Tensor] | None = None

    def _update(self, rows: Tensor) -> None:
        rows = rows[~rows.isnan().any(1)]
        count = torch.tensor([len(rows)], dtype=torch.float64, device=rows.device)
        mean = rows.sum(0) / count.clamp(min=1)
        scatter = (rows - mean).T @ (rows - mean)
        if len(self.count):
            total, delta = self.count + count, mean - self.mean
            share = count / total.clamp(min=1)
            scatter = self.scatter + scatter + torch.outer(delta, delta) * self.count * share
            count, mean = total, self.mean + delta * share
        self.count, self.mean, self.scatter = count, mean, scatter

    def directions(self) -> tuple[Tensor, Tensor]:
        """Return the principal directions, by decreasing variance, and the factors that whiten them.

        Shape: U (D, K), factors (K)
        """
        self._sample()
        if self.count == 0:
            raise UserError(f"{self._name}: every row of the fit has a NaN; fill in or drop missing values")
        # Cached until the scatter changes: decomposing for every sample of a Compose would be far too slow.
        if self._found is None or self._found[0] is not self.scatter:
            self._found = (self.scatter, *self._decompose())
        return self._found[1:]

    def _decompose(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self.scatter / self.count)
        values, vectors = values.flip(0), vectors.flip(1)
        # The variance that rounding the mean of equal values leaves, over as many additions.
        rounding = (self.count * torch.finfo(torch.float64).eps * self.mean.abs().max()).square()
        kept = values > torch.maximum(self.tolerance * values[0], rounding)
        values, vectors = values[kept], vectors[:, kept]
        # The sign of an eigenvector is arbitrary; make its largest entry positive.
        largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
        return vectors * largest.sign(), (values + self.eps).rsqrt()

    def _transform(self, rows: Tensor) -> Tensor:
        u, factors = self.directions()
        return ((rows - self.mean) @ u * factors) @ u.T

    def _inverse(self, rows: Tensor) -> Tensor:
        u, factors = self.directions()
        return (rows @ u / factors) @ u.T + self.mean


class PCAWhitening(ZCAWhitening):
    """Return the principal components of the features, each with variance 1.

        y = Λ^(-1/2) Uᵀ (x - mean),  U Λ Uᵀ = the covariance of the features

    Directions without variance become 0; `n_components` keeps those that vary most, and the inverse sets the others to
    the mean. The largest entry of each direction is positive.

    Shape: `(N, *) -> (N, K)`, or `(N, C, *) -> (N, K, *)` with `per="channel"`, or one sample

    Args:
        n_components: K; None for all.
        eps, tolerance, per, nan: See `ZCAWhitening`.
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        eps: float = 0.0,
        tolerance: float = 1e-10,
        per: str = "feature",
        nan: str = "ignore",
    ) -> None:
        super().__init__(eps=eps, tolerance=tolerance, per=per, nan=nan)
        if n_components is not None and (type(n_components) is not int or n_components < 1):
            raise UserError(f"PCAWhitening: n_components={n_components!r} must be a positive integer, or None for all")
        self.n_components = n_components

    def _components(self) -> int:
        features = len(self.mean)
        if self.n_components is not None and self.n_components > features:
            raise UserError(f"PCAWhitening: n_components={self.n_components} exceeds the {features} features")
        return self.n_components or features

    def _transformed(self, sample: tuple[int, ...]) -> tuple[int, ...]:
        return (self._components(), *(sample[1:] if self.per == "channel" else ()))

    def _transform(self, rows: Tensor) -> Tensor:
        u, factors = self.directions()
        y = (rows - self.mean) @ u * factors
        components = self._components()
        # Directions without variance are zero, or NaN in rows with a NaN.
        zeros = rows.sum(1, keepdim=True) * 0
        return torch.cat([y, zeros.expand(-1, max(0, components - y.shape[1]))], dim=1)[:, :components]

    def _inverse(self, rows: Tensor) -> Tensor:
        u, factors = self.directions()
        known = min(rows.shape[1], len(factors))
        return (rows[:, :known] / factors[:known]) @ u[:, :known].T + self.mean
