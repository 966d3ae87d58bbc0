"""The inputs on which torch tests its own normalization, written to a file: `python torch_samples.py FILE`.

In a process of its own, because importing torch's test tables forbids the whole process to set flags of its backends.
"""

import sys

import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

FUNCTIONS = ("batch_norm", "group_norm", "instance_norm", "layer_norm", "local_response_norm", "rms_norm")
MODULES = (
    "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d",
    "LayerNorm", "LocalResponseNorm", "RMSNorm",
)  # fmt: skip


def main(file: str) -> None:
    """Lists of (input, args, kwargs) by function, and of (constructor's args and kwargs, input) by class."""
    torch.manual_seed(0)
    samples: dict[str, list[tuple]] = {}
    for op in op_db:
        name = op.name.rpartition(".")[2]
        if op.name == f"nn.functional.{name}" and name in FUNCTIONS and not op.variant_test_name:
            found = op.sample_inputs("cpu", torch.float64)
            samples[name] = [(sample.input, tuple(sample.args), dict(sample.kwargs)) for sample in found]
    for module in module_db:
        name = module.module_cls.__name__
        if name in MODULES:
            found = module.module_inputs_func(
                module, device="cpu", dtype=torch.float64, requires_grad=False, training=True
            )
            samples[name] = [
                (tuple(each.constructor_input.args), dict(each.constructor_input.kwargs), *each.forward_input.args)
                for each in found
            ]
    torch.save(samples, file)


if __name__ == "__main__":
    main(sys.argv[1])
