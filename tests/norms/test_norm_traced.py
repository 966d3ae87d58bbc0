"""Norms in graphs of torch.fx, where each is one node, and in the fast path of a transformer's layer."""

import pytest
import torch
from torch import nn

import normzoo
from tests.norms.norm_cases import CHANNELS, a_norm, an_input

ALL = normzoo.list_norms()


class Model(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(CHANNELS, CHANNELS)
        self.norm = norm

    def forward(self, x, condition):
        return torch.relu(self.norm(x) if condition is None else self.norm(x, condition))


def given(name, layer):
    """An input, and the condition or nothing."""
    rank = 2 if normzoo.info(name).kind == "weight" else 4
    x = an_input(rank, torch.float32)
    return x, layer.example_condition(x) if hasattr(layer, "example_condition") else None


@pytest.mark.parametrize("norm", ALL)
def test_a_norm_is_one_node_of_torch_fx(norm):
    model = Model(a_norm(norm)).eval()
    x, condition = given(norm, model.norm)
    traced = torch.fx.symbolic_trace(model, None if condition is not None else {"condition": None})
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["norm"]
    torch.testing.assert_close(traced(x, condition), model(x, condition))


def test_subclasses_and_plain_classes_that_are_registered_are_nodes_too():
    @normzoo.register("test_traced", batch_dependent=False)
    class Mine(nn.Module):
        def __init__(self, num_features: int) -> None:
            super().__init__()

        def forward(self, x):
            return x * len(x.shape)

    class Yours(normzoo.info("group_norm").build):
        def forward(self, x):
            return super().forward(x) + 1

    model = nn.Sequential(Mine(CHANNELS), Yours(CHANNELS), normzoo.factory("batch_norm")(CHANNELS, act_layer=nn.ReLU))
    traced = torch.fx.symbolic_trace(model.eval())
    normzoo.registry._forget("test_traced")
    nodes = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert nodes == ["0", "1", "2.norm", "2.act"]
    x = an_input(4, torch.float32)
    torch.testing.assert_close(traced(x), model(x))


@pytest.mark.parametrize("norm", ["group_norm", "batch_norm", "identity", "ibn", "evo_norm_b0"])
def test_features_are_taken_from_inside_a_model(norm):
    """By torchvision and timm, both of which trace it."""
    torchvision, timm = pytest.importorskip("torchvision"), pytest.importorskip("timm")
    from torchvision.models.feature_extraction import create_feature_extractor

    x = torch.randn(2, 3, 64, 64)
    resnet = torchvision.models.resnet18(norm_layer=normzoo.factory(norm))
    assert create_feature_extractor(resnet, ["layer1.0.bn2", "layer2"])(x)["layer1.0.bn2"].shape == (2, 64, 16, 16)
    features = {"features_only": True, "out_indices": (1, 2), "feature_cls": "fx"}
    extractor = timm.create_model("resnet10t", norm_layer=normzoo.factory(norm), **features)
    assert [tuple(y.shape[1:]) for y in extractor(x)] == [(64, 16, 16), (128, 8, 8)]


def test_a_model_with_any_norm_is_prepared_for_quantization():
    quantize = pytest.importorskip("torch.ao.quantization.quantize_fx")
    from torch.ao.quantization import get_default_qconfig_mapping

    norms = [a_norm(name) for name in normzoo.list_norms(kind="layer", ranks=4)]
    model = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), *norms, nn.ReLU()).eval()
    x = an_input(4, torch.float32)
    prepared = quantize.prepare_fx(model, get_default_qconfig_mapping("x86"), (x,))
    torch.testing.assert_close(prepared(x), model(x))


@pytest.mark.parametrize("norm", normzoo.list_norms(kind="layer", ranks=3))
def test_no_norm_is_taken_for_a_layer_norm_by_the_fast_path_of_a_transformer(norm):
    options = [{}, {"channel_dim": -1}] if "channel_dim" in normzoo.info(norm).arguments else [{}]
    for keywords in options:
        layer = nn.TransformerEncoderLayer(CHANNELS, 2, 16, batch_first=True, dropout=0.0)
        layer.norm1, layer.norm2 = (a_norm(norm, **keywords) for _ in range(2))
        x = torch.randn(4, CHANNELS, CHANNELS)
        layer(x)
        y = layer.eval()(x)
        with torch.no_grad():  # where the fast path is taken
            torch.testing.assert_close(layer(x), y.detach())


def test_padded_samples_that_a_transformer_packs_are_refused_with_the_mend():
    layer = nn.TransformerEncoderLayer(CHANNELS, 2, 16, batch_first=True)
    layer.norm1, layer.norm2 = (a_norm("rms_norm", channel_dim=-1) for _ in range(2))
    x, padded = torch.randn(2, 4, CHANNELS), torch.tensor([[False] * 4, [False, False, True, True]])
    with (
        torch.no_grad(),
        pytest.raises(TypeError, match=r"RMSNorm does not support nested tensors.*enable_nested_tensor=False"),
    ):
        nn.TransformerEncoder(layer, 1).eval()(x, src_key_padding_mask=padded)
    with torch.no_grad():
        nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()(x, src_key_padding_mask=padded)


@pytest.mark.parametrize("norm", ALL)
def test_what_initialization_reads_of_a_norm_is_there(norm):
    layer = a_norm(norm)
    for attribute in ("weight", "bias", "eps") if normzoo.info(norm).kind != "weight" else ("weight", "bias"):
        getattr(layer, attribute)
