"""`import normzoo` needs torch and nothing else, and so does building any norm."""

import inspect
import subprocess
import sys

import pytest

import normzoo

EXTRAS = (
    "hydra", "lightning", "matplotlib", "mlxtend", "numpy", "omegaconf", "pandas", "PIL", "pytest", "pytorch_lightning",
    "rich", "scipy", "sklearn", "timm", "torchmetrics", "torchvision",
)  # fmt: skip

IMPORTED = """
import sys
import torch
before = set(sys.modules)
import normzoo
# A file of torch's that it has not loaded itself; the compiler, which takes seconds, would be another.
new = set(sys.modules) - before - {"torch.utils.module_tracker"}
packages = {name.partition(".")[0] for name in new} - sys.stdlib_module_names
print(" ".join(sorted(packages)))
"""

# A finder that comes first and fails is what a machine without these packages looks like.
BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked)", name=name)

sys.meta_path.insert(0, Block())
import inspect
import torch
import normzoo
from normzoo import registry

for name in sorted(registry._infos):
    info = normzoo.info(name)
    if info.build.__module__.startswith("normzoo.") and inspect.Parameter.empty not in info.arguments.values():
        layer = normzoo.create(name, torch.nn.Linear(8, 8) if info.kind == "weight" else 8)
        if info.kind == "layer":
            layer(torch.randn(4, 8, *[2] * (max(info.ranks) - 2)))
        print(name)
"""


def run(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_import_brings_in_torch_and_nothing_else():
    assert run(IMPORTED) == ["normzoo"]


def test_every_norm_is_built_where_only_torch_is_installed():
    expected = [
        name
        for name in normzoo.list_norms()
        if normzoo.info(name).build.__module__.startswith("normzoo.")
        and inspect.Parameter.empty not in normzoo.info(name).arguments.values()
    ]
    assert run(f"EXTRAS = {EXTRAS!r}\n{BLOCKED}") == expected
    assert expected


COMMANDS = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked)", name=name)

sys.meta_path.insert(0, Block())
from normzoo.cli import main

main(["list", "--fused"])
main(["show", "group_norm"])
"""


def test_list_and_show_need_torch_alone():
    said = run(f"EXTRAS = {EXTRAS!r}\n{COMMANDS}")
    assert {"batch_norm", "group_norm", "Measured:"} <= set(said)


def test_rooms_are_attributes_without_being_imported_before() -> None:
    rooms = ("models", "preprocessing", "probes", "surgery", "testing")
    named = "; ".join(f"assert 'normzoo.{room}' not in sys.modules; normzoo.{room}" for room in rooms)
    program = f"import sys, normzoo; {named}"
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="no attribute 'porbes'"):
        normzoo.porbes  # noqa: B018
