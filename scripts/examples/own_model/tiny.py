"""A model of one's own: it takes `norm`, and the sweep builds it with every norm."""

from collections.abc import Callable

from torch import Tensor, nn


class Tiny(nn.Module):
    """One convolution with norm and ReLU, and a linear head."""

    def __init__(self, norm: Callable[[int], nn.Module], in_channels: int, num_classes: int, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, kernel_size=3, padding=1)
        self.norm = norm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits."""
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


class Stock(nn.Module):
    """As from elsewhere: it builds BatchNorm itself, which the sweep converts."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits."""
        return self.head(self.net(x).flatten(1))
