"""Mean-only batch normalization: the mean of each channel is subtracted, its variance left alone."""

import torch
from torch import Tensor

from normzoo.norms._layer import scale_and_shift
from normzoo.norms._refuse import check_count, check_input
from normzoo.norms._running import RunningNorm, move_running
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
class MeanOnlyBatchNorm(RunningNorm):
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
    starts = (("running_mean", 0.0),)
    running_mean: Tensor | None

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
        super().__init__(num_features, affine, device, dtype)
        self.register_parameter("weight", None)
        self.momentum = momentum
        self.track_running_stats = track_running_stats
        self._register_statistics(device, dtype, tracked=track_running_stats)
        self.reset_parameters()

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
