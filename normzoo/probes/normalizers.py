"""Describe the effect of each data normalizer on a data set: histograms, means, deviations, correlations."""

from typing import Any

import torch
from torch import Tensor

from normzoo.preprocessing import L2, NORMALIZERS, Normalizer

# A tutorial's example of an L2-normalized vector.
EXAMPLE = (0.0066, 0.0004, 0.0085, 0.0093, 0.0068, 0.0076, 0.0074, 0.0039, 0.0066, 0.0017)


def measure(
    parts: Any, *, per: str = "feature", eps: float = 0.0, samples: int = 2000, bins: int = 60
) -> tuple[dict[str, float], dict[str, Any]]:
    """Fit every normalizer to the first training images of the cell's data set, and describe its output.

    Args:
        parts: Data set of the cell, best with `data.scaling=none`.
        per: `feature` or `channel`, see `normzoo.preprocessing`.
        eps: Added to each variance in whitening.
        samples: Maximum number of images.
        bins: Bins of the histograms.

    Returns:
        Metrics for each normalizer, and for `raw`, the data before it: `<name>_min`, `_max`, `_mean` and `_std` of all
        values; `_mean_off` and `_std_off`, the largest distance of a varying feature's mean from 0 and deviation from
        1; `_correlation`, the mean absolute correlation of two features; `_length_off`, the largest distance of a
        sample's norm from 1; `_stream`, the largest difference after a fit in batches of 100; `_inverse`, the largest
        error of the inverse, if there is one; `_nan`, the largest difference between a fit with every tenth sample
        missing (NaN) and one without these samples; `_not_finite`, the number of NaN or infinite outputs.
        `raw_constant` counts constant features. `example_*` are the norms of a tutorial's L2 example and of its
        normalized form. Arrays: `<name>_histogram` and `_edges`; `<name>_pair`, the two features that vary most, (n,
        2); `<name>_image`, the first image; and the example.
    """
    x = parts.data().tensors("train")[0][:samples].double()
    widest = _rows(x, per).var(0).argsort(descending=True, stable=True)[:2]
    metrics, arrays = _describe("raw", x, x, per, bins, widest)
    for name, kind in NORMALIZERS.items():
        options: dict[str, Any] = {"eps": eps} if name in ("pca", "zca") else {}
        normalizer = kind(per=per, **options).fit(x)
        y = normalizer(x)
        # The first two principal components vary most.
        pair = torch.arange(len(widest)) if name == "pca" else widest
        found, drawn = _describe(name, y, x, per, bins, pair)
        streamed, missing, without = (
            kind(per=per, **options).fit(data) for data in (x.split(100), _every_tenth_missing(x), x[_kept(x)])
        )
        metrics |= found | _fits(name, normalizer, streamed, x, y)
        metrics |= {f"{name}_nan": float((missing(x) - without(x)).abs().max())}
        metrics |= {f"{name}_not_finite": float((~y.isfinite()).sum())}
        arrays |= drawn
    metrics["raw_constant"] = float((_rows(x, per).amin(0) == _rows(x, per).amax(0)).sum())
    example = torch.tensor(EXAMPLE, dtype=torch.float64)
    arrays["example"], arrays["example_l2"] = example.numpy(), L2()(example).numpy()
    metrics |= {"example_length": float(example.norm()), "example_l2_length": float(L2()(example).norm())}
    return metrics, arrays


def _describe(
    name: str, y: Tensor, x: Tensor, per: str, bins: int, pair: Tensor
) -> tuple[dict[str, float], dict[str, Any]]:
    rows = _rows(y, per)
    std = rows.std(0, correction=0)
    varies = std > 1e-9 * std.max()
    if not varies.any():  # such as the lengths of single numbers
        varies = ~varies
    rows_that_vary = rows[:, varies]
    counts, edges = torch.histogram(rows_that_vary.flatten(), bins)
    metrics = {
        "min": rows.min(),
        "max": rows.max(),
        "mean": rows.mean(),
        "std": rows.std(correction=0),
        "mean_off": rows_that_vary.mean(0).abs().max(),
        "std_off": (std[varies] - 1).abs().max(),
        "correlation": _correlation(rows_that_vary),
        "length_off": (y.flatten(1).norm(dim=1) - 1).abs().max(),
    }
    arrays = {"histogram": counts, "edges": edges, "pair": rows[:500, pair]}
    if y.shape == x.shape:
        arrays["image"] = y[0]
    return (
        {f"{name}_{key}": float(value) for key, value in metrics.items()},
        {f"{name}_{key}": value.numpy() for key, value in arrays.items()},
    )


def _fits(name: str, whole: Normalizer, streamed: Normalizer, x: Tensor, y: Tensor) -> dict[str, float]:
    found = {f"{name}_stream": float((streamed(x) - y).abs().max())}
    if name != "l2":
        found[f"{name}_inverse"] = float((whole.inverse(y) - x).abs().max())
    return found


def _kept(x: Tensor) -> Tensor:
    return torch.arange(len(x)) % 10 != 0


def _every_tenth_missing(x: Tensor) -> Tensor:
    missing = x.clone()
    missing[~_kept(x)] = torch.nan
    return missing


def _correlation(rows: Tensor) -> Tensor:
    """Return the mean absolute correlation of two columns; 0 with one column, or if none varies."""
    features = rows.shape[1]
    if features < 2 or not rows.std(0).any():
        return torch.zeros(())
    correlations = torch.corrcoef(rows.T)
    return (correlations.abs().sum() - features) / (features * (features - 1))


def _rows(x: Tensor, per: str) -> Tensor:
    return x.movedim(1, -1).flatten(0, -2) if per == "channel" else x.flatten(1)
