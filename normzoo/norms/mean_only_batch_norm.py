"""Mean-only batch normalization: the mean of each channel is subtracted, its variance left alone."""

import torch
from torch import Tensor, nn

from normzoo.norms._layer import NormLayer, scale_and_shift
from normzoo.norms._refuse import check_count, check_input
from normzoo.norms._running import count_from_zero, move_running
from normzoo.norms._standardize import centre, per_channel
from normzoo.registry import register


@register(
    "mean_only_batch_norm",
    aliases=("MeanOnlyBN", "mean_only_bn"),
    batch_dependent=True,
    paper="Salimans & Kingma, Weight Normalization, 2016, arXiv:1602.07868",
    reduces_over="N, *",
    train_eval_differ=True,
    state=("running_mean", "num_batches_tracked"),
)
class MeanOnlyBatchNorm(NormLayer):
    """Subtract from each channel its mean over the batch and the positions; the running mean in evaluation.

        y = x − mean + bias,  mean over (N, *)
        running_mean ← (1 − momentum) · running_mean + momentum · mean

    The paper's companion of weight normalization, which takes care of the scale: put `weight_norm` on the layer before.
    It has a `bias` and no `weight`. The gradient that reaches the layer before is centred.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        momentum: Weight of the newest batch in the running mean; None for the cumulative average.
        affine: Whether to learn `bias`.
        track_running_stats: Whether to keep a running mean; without one evaluation uses the batch's own.

    Source: Salimans & Kingma 2016, arXiv:1602.07868, section 4.
    """

    shown = ("momentum", "affine", "track_running_stats")
    bias: nn.Parameter  # None without affine
    running_mean: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        bias = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype)) if affine else None
        self.register_parameter("bias", bias)
        mean = torch.empty(num_features, device=device, dtype=dtype)
        self.register_buffer("running_mean", mean if track_running_stats else None)
        count = torch.empty((), device=device, dtype=torch.long)
        self.register_buffer("num_batches_tracked", count if track_running_stats else None)
        self.register_load_state_dict_pre_hook(count_from_zero)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        if self.running_mean is not None and self.num_batches_tracked is not None:
            self.running_mean.zero_()
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        self.reset_running_stats()
        if self.affine:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.num_features)
        if self.training or self.running_mean is None:
            check_count(self, x.shape, "use a larger batch or a larger map, or leave the norm out at this place")
            y, mean = centre(x, (0, *range(2, x.dim())))
            if self.training and self.track_running_stats and x.numel() and self.running_mean is not None:
                move_running(self.num_batches_tracked, self.momentum, (self.running_mean, mean))
        else:
            y = x - per_channel(self.running_mean, x)
        return scale_and_shift(y, None, self.bias).to(x.dtype)
