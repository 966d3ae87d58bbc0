"""Normalizers of data: min-max, z-score, L2, PCA and ZCA whitening, fitted at once or batch by batch.

    normalizer = ZScore(per="channel").fit(train)  # a tensor, or an iterable of batches such as a loader
    x = normalizer(x)                              # a batch or one sample, as in torchvision's Compose
    x = normalizer.inverse(x)
    torch.save(normalizer.state_dict(), path)      # load it into a normalizer with the same options

All are modules without parameters. Statistics are computed and applied in float64, and merged across batches without
cancellation (Chan, Golub & LeVeque 1983, Algorithms for computing the sample variance), so that a fit to a stream
equals a fit to all data. The output has the dtype of the input; integers become torch's default dtype.

`per` defines a feature. `feature`: each position in a sample, Shape (N, *), over N. `channel`: each channel, Shape
(N, C, *), over N and all positions, whose number may vary.

A NaN is a missing value: a fit ignores it (whitening ignores its whole row), and a transform keeps it (in whitening its
whole row becomes NaN). With `nan="error"` both raise. Infinite values always raise.

Variances are divided by N, as in scikit-learn's StandardScaler, and not by N - 1, as in its PCA.
"""

from normzoo.preprocessing._normalizer import Normalizer
from normzoo.preprocessing.scaling import L2, MinMax, ZScore
from normzoo.preprocessing.whitening import PCAWhitening, ZCAWhitening

NORMALIZERS: dict[str, type[Normalizer]] = {
    "minmax": MinMax,
    "zscore": ZScore,
    "l2": L2,
    "pca": PCAWhitening,
    "zca": ZCAWhitening,
}

__all__ = ["L2", "NORMALIZERS", "MinMax", "Normalizer", "PCAWhitening", "ZCAWhitening", "ZScore"]
