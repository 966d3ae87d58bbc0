"""Networks that take any norm as `norm: Callable[[int], nn.Module]`, and a `Placement` that says where it goes."""
