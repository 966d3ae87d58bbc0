"""IBN: instance norm for one half of the channels, batch norm for the other."""

import torch
from torch import Tensor

from normzoo.norms._batch_statistics import BatchStatisticsNorm, standardize_batch
from normzoo.norms._layer import scale_and_shift
from normzoo.norms._refuse import check_count, check_input
from normzoo.norms._standardize import standardize
from normzoo.norms.batch_norm import STATE
from normzoo.norms.instance_norm import MEND
from normzoo.registry import register


@register(
    "ibn",
    aliases=("IBN-a",),
    batch_dependent=True,
    paper="Pan, Luo, Shi & Tang, Two at Once: IBN-Net, 2018, arXiv:1807.09441",
    reduces_over="* of C1 and N, * of C2",
    train_eval_differ=True,
    state=STATE,
    ranks=(3, 4, 5),
)
class IBN(BatchStatisticsNorm):
    """Normalize the first half of the channels as instance norm does, and the others as batch norm does.

        y = x_hat · weight + bias,  x_hat = (x − mean) / sqrt(var + eps)
        channels below C // 2:  mean and var over (*)
        the others:             mean and var over (N, *); the running ones in evaluation

    The norm of the paper's IBN-a block, where it stands behind the first convolution. The running statistics hold the
    channels of the second half alone.

    Shape: `(N, C, *)` -> `(N, C, *)`, with one dimension of positions or more.

    Args:
        num_features: C.
        eps: Added to the variances, within the root.
        momentum: Weight of the newest batch in the running statistics; None for their cumulative average.
        affine: Whether to learn a `weight` and a `bias` for each channel, of both halves.
        track_running_stats: Whether to keep running statistics; without them evaluation uses the batch's own.
        bias: Whether the affine has a `bias`.

    Source: Pan et al. 2018, arXiv:1807.09441, section 3.2.
    """

    def _complete(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        self.first_half = self.num_features // 2
        if self.running_mean is not None and self.running_var is not None:
            self.running_mean = self.running_mean[self.first_half :].clone()
            self.running_var = self.running_var[self.first_half :].clone()

    def tracked_inputs(self, x: Tensor) -> list[Tensor]:
        """Return the part of the input that the running statistics are of."""
        return [x[:, self.first_half :]]

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.num_features)
        check_count(self, x.shape, MEND)
        half = self.first_half
        first, second = x.split([half, self.num_features - half], dim=1)
        x_hats = (standardize(first, range(2, x.dim()), self.eps)[0], standardize_batch(self, second))
        # Scaled before they are joined, so that the x_hat of each half is all that is saved.
        weights, biases = (
            (None, None) if vector is None else (vector[:half], vector[half:]) for vector in (self.weight, self.bias)
        )
        return torch.cat(list(map(scale_and_shift, x_hats, weights, biases)), dim=1).to(x.dtype)
