"""Normalizers of data: min-max, z-score, L2, PCA and ZCA whitening, fitted at once or batch by batch.

    normalizer = ZScore(per="channel").fit(train)  # a tensor, or an iterable of batches such as a loader
    x = normalizer(x)                              # a batch or one sample, as in torchvision's Compose
    x = normalizer.inverse(x)
    torch.save(normalizer.state_dict(), path)      # to be loaded into one made with the same options

All are modules without parameters. Statistics are kept and applied in float64, whatever the data are in, and those of
two batches are merged without cancellation (Chan, Golub & LeVeque 1983, Algorithms for computing the sample variance),
so that a fit to a stream equals that to all data. A result has the type of its input; integers become torch's default.

`per` says what one feature is. `feature`: each place in a sample, Shape (N, *), over N. `channel`: each channel, Shape
(N, C, *), over N and all positions, whose number may change.

A NaN is a missing value: a fit leaves it out (whitening needs whole rows and leaves out its row), a transform keeps it
(whitening makes its whole row NaN). With `nan="error"` both refuse it. Infinite values are refused.

Variances are those of the data themselves, divided by N and not by N - 1, as scikit-learn's StandardScaler has it and
its PCA has not.
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
