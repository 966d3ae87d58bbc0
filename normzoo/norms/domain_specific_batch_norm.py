"""Domain-specific batch normalization: a batch norm for each of the domains that data come from."""

import math

import torch
from torch import Tensor

from normzoo.norms._condition import check_labels, per_sample
from normzoo.norms._recompute import is_recomputed
from normzoo.norms._refuse import check_count, check_input, invalid
from normzoo.norms._running import RunningNorm, newest_weight
from normzoo.norms._standardize import widen
from normzoo.norms.batch_norm import MEND, STATE
from normzoo.registry import register


@register(
    "domain_specific_batch_norm",
    aliases=("DSBN", "DomainSpecificBatchNorm1d", "DomainSpecificBatchNorm2d", "DomainSpecificBatchNorm3d"),
    kind="conditional",
    batch_dependent=True,
    paper="Chang et al., Domain-Specific Batch Normalization, 2019, arXiv:1906.03950",
    reduces_over="N of a domain, *",
    train_eval_differ=True,
    state=STATE,
)
class DomainSpecificBatchNorm(RunningNorm):
    """A batch norm for each domain: its own statistics, running statistics, weight and bias.

        y_n = (x_n − mean[d_n]) / sqrt(var[d_n] + eps) · weight[d_n] + bias[d_n]
        mean[d] and var[d] over the samples of domain d in the batch, and (*)
        running[d] ← (1 − momentum) · running[d] + momentum · new[d],  new var unbiased

    The condition names the domain of each sample, so that a batch may be of one domain, as in the paper, or mixed. A
    domain of which a batch holds fewer than two values keeps its running statistics; of a single one, the output is the
    bias.

    Shape: `(N, C, *)` and a condition `(N,)` -> `(N, C, *)`.

    Args:
        num_features: C.
        num_domains: The number of domains; a condition is a domain, from 0, for each sample.
        eps: Added to the variances, within the root.
        momentum: Weight of the newest batch in the running statistics; None for their cumulative average, over the
            batches that a domain was in.
        affine: Whether to learn a row of `weight` and one of `bias` for each domain.
        bias: Whether the affine has a `bias`.

    Raises:
        ValueError: If there is no domain, or the condition is not one whole number a sample.
        IndexError: If a domain is not one of `num_domains`.

    Source: Chang et al. 2019, arXiv:1906.03950, section 3.2.
    """

    shown = ("num_domains", "eps", "momentum", "affine")
    starts = (("running_mean", 0.0), ("running_var", 1.0))
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        num_features: int,
        num_domains: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if num_domains < 1:
            raise invalid(self, f"num_domains is a number of domains, 1 or more; got {num_domains}")
        super().__init__(num_features, affine, device, dtype, bias=bias, rows=(num_domains,))
        self.num_domains = num_domains
        self.eps = eps
        self.momentum = momentum
        self._register_statistics(device, dtype, rows=(num_domains,))
        self.reset_parameters()

    def example_condition(self, x: Tensor) -> Tensor:
        """A random domain for each sample of `x`."""
        return torch.randint(self.num_domains, (x.shape[0],), device=x.device)

    def tracked_inputs(self, x: Tensor, condition: Tensor) -> list[Tensor]:
        """Return the samples of each domain, which its running statistics are of."""
        return [x[condition == domain] for domain in range(self.num_domains)]

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        check_input(self, x, self.num_features)
        condition = check_labels(self, condition, x.shape[0], "a domain for each sample", self.num_domains)
        wide = widen(x)
        if self.training:
            check_count(self, x.shape, MEND)
            centred, var = self._batch_statistics(wide, condition)
        else:
            centred, var = wide - per_sample(self.running_mean[condition], x), self.running_var.to(wide.dtype)
        scale = (var + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        y = centred * per_sample(scale[condition], x)
        if self.bias is not None:
            y = y + per_sample(self.bias[condition], x)
        return y.to(x.dtype)

    def _batch_statistics(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return the input less its domains' means, and the domains' variances; move the running ones."""
        positions = tuple(range(2, x.dim()))
        member = (condition.unsqueeze(1) == torch.arange(self.num_domains, device=x.device)).to(x.dtype)
        count = member.sum(0) * math.prod(x.shape[2:])
        share = (member / member.sum(0).clamp(min=1)).unsqueeze(-1)

        def mean_of(values: Tensor) -> Tensor:
            over_positions = values.mean(positions) if positions else values
            return (share * over_positions.unsqueeze(1)).sum(0)

        mean = mean_of(x)
        centred = x - per_sample(mean[condition], x)
        rest = mean_of(centred)  # as in `standardize`
        centred = centred - per_sample(rest[condition], x)
        var = mean_of(centred.square())
        self._update_running(mean + rest, var, count)
        return centred, var

    @torch.no_grad()
    def _update_running(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        if is_recomputed():
            return
        seen = count >= 2
        self.num_batches_tracked.add_(seen)
        weight = newest_weight(self.num_batches_tracked.clamp(min=1), self.momentum)
        w = (weight * seen).to(mean.dtype).unsqueeze(-1)
        unbiased = var * (count / (count - 1).clamp(min=1)).unsqueeze(-1)
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.copy_((1 - w) * running.to(mean.dtype) + w * new)
