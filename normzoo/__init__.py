"""Every normalization layer for PyTorch under a name."""
__version__ = "0.1.0"
