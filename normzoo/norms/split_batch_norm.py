"""Split batch normalization: one batch norm for each part of the batch, the first of which is kept."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from normzoo.norm_info import UNSCRIPTED
from normzoo.norms._layer import values_over
from normzoo.norms._memory import channels_last, is_channels_last
from normzoo.norms._refuse import check_count, check_input, invalid
from normzoo.norms.batch_norm import BatchNormBase
from normzoo.registry import register

MEND = "use a larger batch, fewer splits or a larger map"


@register(
    "split_batch_norm",
    aliases=("SplitBN", "SplitBatchNorm2d", "auxiliary_batch_norm", "AuxBN", "auxiliary_bn"),
    batch_dependent=True,
    paper="Xie et al., Adversarial Examples Improve Image Recognition, 2019, arXiv:1911.09665",
    reduces_over="N/k, *",
    train_eval_differ=True,
    state=tuple(
        f"{prefix}{name}"
        for prefix in ("", "aux_bn.0.")
        for name in ("running_mean", "running_var", "num_batches_tracked")
    ),
    peers=("timm.layers.SplitBatchNorm2d",),
    unsupported=(*UNSCRIPTED, "torch.jit.trace"),
)
class SplitBatchNorm(BatchNormBase):
    """Normalize each of k parts of the batch by a batch norm of its own; evaluate with that of the first part.

        (x_0, …, x_{k−1}) = x, cut along the batch;  y = (BN(x_0), BN_1(x_1), …, BN_{k−1}(x_{k−1}))
        evaluation: y = BN(x)

    Each of the k has its own statistics, running statistics and affine. The paper trains on `cat([clean, adversarial])`
    with k = 2, and afterwards uses the norm of the clean images alone. The state dict is that of `batch_norm` with the
    others under `aux_bn.0` and so on, as in timm's SplitBatchNorm2d: these can be dropped from it. Where k does not
    divide N, the first N % k parts have one sample more; timm refuses.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        num_splits: k, 2 or more.
        eps: Added to the variance, within the root.
        momentum: Weight of the newest batch in the running statistics; None for their cumulative average.
        affine: Whether to learn `weight` and `bias`, for each part.
        track_running_stats: Whether to keep running statistics; without them evaluation uses the batch's own.
        bias: Whether the affines have a `bias`.

    Raises:
        ValueError: If `num_splits` is less than 2.

    Source: Xie et al. 2019, arXiv:1911.09665, section 4.2.
    """

    train_eval_differ = True  # also without running statistics: in evaluation the batch is not split

    def __init__(
        self,
        num_features: int,
        num_splits: int = 2,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if num_splits < 2:
            raise invalid(self, f"num_splits is the number of parts of a batch, 2 or more; got {num_splits}")
        options: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
        super().__init__(num_features, eps, momentum, affine, track_running_stats, **options)
        self.num_splits = num_splits
        self.aux_bn = nn.ModuleList(
            BatchNormBase(num_features, eps, momentum, affine, track_running_stats, **options)
            for _ in range(num_splits - 1)
        )

    def values_per_statistic(self, shape: Sequence[int]) -> int:
        """Count the values in a statistic of the smallest part; of a part of one sample, where some are empty."""
        return (shape[0] // self.num_splits or min(shape[0], 1)) * math.prod(shape[2:])

    def _check_input_dim(self, input: Tensor) -> None:
        """Check the input of the main batch norm, a part in training and the batch in evaluation."""
        check_input(self, input, self.num_features)
        if self.uses_batch_statistics:
            check_count(self, input.shape, MEND, count=values_over(self, "N, *", input.shape))

    def tracked_inputs(self, input: Tensor) -> list[Tensor]:
        """Return the part of the input that the running statistics of the main batch norm are of."""
        return [input.tensor_split(self.num_splits)[0]]

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        check_input(self, input, self.num_features)
        check_count(self, input.shape, MEND)
        for norm in self.aux_bn:  # these options are the layer's, also where they are set after it is built
            assert isinstance(norm, BatchNormBase)
            norm.eps, norm.momentum, norm.track_running_stats = self.eps, self.momentum, self.track_running_stats
        norms = [super().forward, *self.aux_bn]
        each, left = len(input) // self.num_splits, len(input) % self.num_splits  # of which Dynamo knows no divmod
        # The backward of a split is one copy; that of tensor_split's slices is one of the whole for each.
        parts = input.split([each + (i < left) for i in range(self.num_splits)])
        y = torch.cat([norm(part) for norm, part in zip(norms, parts, strict=True)])
        return channels_last(y) if is_channels_last(input) else y

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()}, num_splits={self.num_splits})"
