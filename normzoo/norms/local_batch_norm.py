"""Local batch normalization: batch norm that stays at home in federated learning."""

from normzoo.norms.batch_norm import PEERS, STATE, BatchNormBase
from normzoo.registry import register


@register(
    "local_batch_norm",
    aliases=("FedBN", "LocalBN"),
    batch_dependent=True,
    paper="Li, Jiang, Zhang, Kamp & Dou, FedBN, 2021, arXiv:2102.07623",
    reduces_over="N, *",
    train_eval_differ=True,
    state=STATE,
    fused=True,
    peers=PEERS,
)
class LocalBatchNorm(BatchNormBase):
    """Normalize as batch norm does, with weights and statistics that stay at home when a federated model is averaged.

        y = (x − mean) / sqrt(var + eps) · weight + bias,  mean and var over (N, *)
        running ← (1 − momentum) · running + momentum · new,  new var unbiased

    It differs from `batch_norm` in its class, by which `normzoo.surgery.federated.shared_state` leaves its entries out
    of what a client sends, and `load_shared_state` leaves them as they are.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        eps: Added to the variance, within the root.
        momentum: Weight of the newest batch in the running statistics; None for their cumulative average.
        affine: Whether to learn `weight` and `bias`.
        track_running_stats: Whether to keep running statistics; without them evaluation uses the batch's own.
        bias: Whether the affine has a `bias`.

    Source: Li et al. 2021, arXiv:2102.07623, section 3 and Algorithm 1.
    """
