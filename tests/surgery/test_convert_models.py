"""Models of torchvision and timm compute what they did, when their norms become ours of the same equation."""

import pytest
import torch
from torch import nn

from normzoo.surgery.convert import convert
from normzoo.surgery.identify import find_norms, identify

FEW = ["torchvision/resnet18", "torchvision/mobilenet_v3_small", "timm/resnet10t", "timm/convnext_atto"]
MANY = [
    *(f"torchvision/{name}" for name in ("convnext_tiny", "densenet121", "googlenet", "r3d_18", "swin_v2_t")),
    *(f"torchvision/{name}" for name in ("shufflenet_v2_x0_5", "mnasnet0_5", "regnet_y_400mf", "efficientnet_b0")),
    *(f"timm/{name}" for name in ("coatnet_nano_rw_224", "convnextv2_atto", "edgenext_xx_small", "efficientnet_b0")),
    *(f"timm/{name}" for name in ("levit_128s", "maxvit_rmlp_pico_rw_256", "mixer_s32_224", "inception_next_atto")),
    *(f"timm/{name}" for name in ("regnetx_002", "resnetv2_50", "tf_efficientnet_b0", "vit_tiny_patch16_224")),
    *(f"timm/{name}" for name in ("vovnet39a", "xcit_nano_12_p16_224", "pit_ti_224", "ghostnet_050", "fastvit_t8")),
    *(f"timm/{name}" for name in ("mobilevit_xxs", "poolformer_s12", "resnest14d", "tinynet_e", "hardcorenas_a")),
]


def a_model(name):
    library, _, name = name.partition("/")
    if library == "torchvision":
        model = pytest.importorskip("torchvision").models.get_model(name, weights=None)
        shape = (3, 8, 32, 32) if name == "r3d_18" else (3, 64, 64)
    else:
        model = pytest.importorskip("timm").create_model(name, pretrained=False)
        shape = model.default_cfg["input_size"]
        if not model.default_cfg.get("fixed_input_size"):
            shape = (3, 64, 64)
    for module in model.modules():
        if isinstance(getattr(module, "running_var", None), torch.Tensor):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return model.double().eval(), torch.randn(2, *shape, dtype=torch.float64)


@pytest.mark.parametrize("name", [*FEW, *(pytest.param(name, marks=pytest.mark.slow) for name in MANY)])
@torch.no_grad()
def test_outputs_are_the_same(name):
    model, x = a_model(name)
    expected, keys = model(x), list(model.state_dict())
    identified = [norm.equation for _, _, norm in find_norms(model) if norm.equation]
    reports = []
    for equation in sorted({*identified}):
        reports.append(convert(model, equation, where=lambda _, layer, same=equation: identify(layer).equation == same))
    y = model(x)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    assert list(model.state_dict()) == keys
    assert sum(report.counts()["converted"] for report in reports) == len(identified)
    for report in reversed(reports):
        report.undo()
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
