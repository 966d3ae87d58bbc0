"""What is asked besides of a norm that takes a condition, and of one that is put on weights."""

import torch
from torch import nn
from torch.nn.utils import parametrize

from normzoo._conformance.inputs import refusal
from normzoo._conformance.subject import EXACT, Subject, part, run, same, weight_of


def follows_the_condition(norm: Subject) -> None:
    """Each sample follows its own condition, another condition gives another output, one for too few is refused."""
    x, condition = norm.given()
    order = torch.arange(len(x), device=x.device).flip(0)
    for layer in norm.modes():
        layer.eval()  # where a norm may not mix samples, whatever it does in training
        y = layer(x, condition)
        same([layer(*part((x, condition), order))], [y[order]], "samples and conditions in another order", EXACT)
        assert not torch.allclose(layer(*norm.with_condition(x, seed=1)), y), "another condition changes nothing"
        assert refusal(layer, (x, condition[:2]), Exception), f"{len(x)} samples with 2 conditions are not refused"


def parametrizes_the_weight(norm: Subject) -> None:
    """What is built is the module that was given, of its own class, with its weight parametrized and nothing else."""
    bare = norm.bare(norm.rank)
    kept, names = type(bare), {name for name, _ in bare.named_parameters()} - {"weight"}
    module = norm.build(bare)
    assert module is bare, "another module is returned"
    assert isinstance(module, kept), f"a {kept.__name__} becomes a {type(module).__name__}"
    assert parametrize.is_parametrized(module, "weight"), "torch.nn.utils.parametrize knows of no parametrized weight"
    parametrized = [name for name, _ in module.get_submodule("parametrizations").named_children()]
    assert parametrized == ["weight"], f"{parametrized} are parametrized"
    assert names <= {name for name, _ in module.named_parameters()}, "another parameter is gone"


def follows_its_parameters(norm: Subject) -> None:
    """A step of all parameters along their gradients changes the weight."""
    layer, given = norm.layer(), norm.given()
    _, _, *grads = run(layer, given, layer.parameters())
    before = weight_of(layer).detach().clone()
    for parameter, gradient in zip(layer.parameters(), grads, strict=True):
        parameter.data.sub_(gradient)
    assert not torch.equal(weight_of(layer), before), "the weight stays as it was"


def can_be_removed(norm: Subject) -> None:
    """remove_parametrizations() leaves the plain module, whose weight is the normalized one and can be learnt."""
    _, layer = norm.modes()
    given = norm.given()
    y, weight = layer(*given), weight_of(layer).detach().clone()
    parametrize.remove_parametrizations(layer, "weight")
    assert isinstance(layer.weight, nn.Parameter), "the weight is no parameter"
    plain = norm.bare(norm.rank).state_dict()
    assert set(layer.state_dict()) == set(plain), f"the module holds {sorted(layer.state_dict())}"
    same([weight_of(layer).detach()], [weight], "the weight", EXACT)
    same([layer(*given)], [y], "the module without the parametrization", EXACT)
