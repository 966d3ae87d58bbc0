"""IBN: instance norm for one half of the channels, batch norm for the other."""

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from normzoo.norm_info import NOT_DYNAMIC
from normzoo.norms._batch_statistics import standardize_batch
from normzoo.norms._layer import NormLayer
from normzoo.norms._refuse import check_count, check_input
from normzoo.norms._standardize import per_channel, standardize
from normzoo.norms.batch_norm import STATE
from normzoo.norms.instance_norm import MEND
from normzoo.registry import register


@register(
    "ibn",
    aliases=("IBN-a",),
    batch_dependent=True,
    paper="Pan, Luo, Shi & Tang, Two at Once: IBN-Net, 2018, arXiv:1807.09441",
    reduces_over="* and N, *",
    train_eval_differ=True,
    state=STATE,
    ranks=(3, 4, 5),
    unsupported=NOT_DYNAMIC,
)
class IBN(NormLayer, _NormBase):
    """Normalize the first half of the channels as instance norm does, and the others as batch norm does.

        y = x_hat · weight + bias,  x_hat = (x − mean) / sqrt(var + eps)
        channels below C // 2:  mean and var over (*)
        the others:             mean and var over (N, *); the running ones in evaluation

    The norm of the paper's IBN-a block, where it stands behind the first convolution. The running statistics hold the
    channels of the second half alone.

    Not an instance of torch's batch norm, which this is only by half; `normzoo.surgery.recalibrate` finds it.

    Shape: `(N, C, *)` -> `(N, C, *)`, with one dimension of positions or more.

    Args:
        num_features: C.
        eps: Added to the variances, within the root.
        momentum: Weight of the newest batch in the running statistics; None for their cumulative average.
        affine: Whether to learn a `weight` and a `bias` for each channel, of both halves.
        track_running_stats: Whether to keep running statistics; without them evaluation uses the batch's own.

    Raises:
        ValueError: If the number of channels of an input differs, or its map is of a single value.

    Source: Pan et al. 2018, arXiv:1807.09441, section 3.2.
    """

    shown = ("eps", "momentum", "affine", "track_running_stats")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        self.first_half = num_features // 2
        if self.running_mean is not None and self.running_var is not None:
            self.running_mean = self.running_mean[self.first_half :].clone()
            self.running_var = self.running_var[self.first_half :].clone()

    def tracked_inputs(self, x: Tensor) -> list[Tensor]:
        """Return the part of the input that the running statistics are of."""
        return [x[:, self.first_half :]]

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.num_features)
        check_count(self, x.shape, MEND)
        parts = x.split([self.first_half, x.shape[1] - self.first_half], dim=1)
        x_hats = [standardize(parts[0], range(2, x.dim()), self.eps)[0], standardize_batch(self, parts[1])]
        if self.affine:
            # Before they are joined, so that the x_hat of each half is all that is saved.
            weights, biases = (vector.split([part.shape[1] for part in parts]) for vector in (self.weight, self.bias))
            x_hats = [
                h * per_channel(w, x) + per_channel(b, x) for h, w, b in zip(x_hats, weights, biases, strict=True)
            ]
        return torch.cat(x_hats, dim=1).to(x.dtype)
