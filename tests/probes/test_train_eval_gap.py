"""One model under running, recomputed and batch statistics."""

import torch
from torch import nn

import normzoo
from normzoo.probes.train_eval_gap import differs, predict, with_batch_statistics, with_population_statistics


def shifted_classifier() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A net that is right about x when it centres x, and always answers 1 when it does not."""
    model = nn.Sequential(normzoo.create("batch_norm", 1), nn.Linear(1, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[-1.0], [1.0]]))
        model[1].bias.zero_()
    x = torch.tensor([[99.0], [101.0], [98.0], [102.0]])
    return model.eval(), x, torch.tensor([0, 1, 0, 1])


def test_the_error_under_each_kind_of_statistics() -> None:
    model, x, y = shifted_classifier()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def errors(of: nn.Module) -> int:
        predicted, true = predict(of, [(x[:2], y[:2]), (x[2:], y[2:])])
        return int((predicted != true).sum())

    assert errors(model) == 2  # running mean 0: every x is large
    assert errors(with_batch_statistics(model)) == 0
    assert errors(with_population_statistics(model, [x])) == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training


def test_which_models_differ() -> None:
    assert differs(nn.Sequential(normzoo.create("batch_norm", 4)))
    assert not differs(nn.Sequential(normzoo.create("group_norm", 4), normzoo.create("identity", 4)))
    assert not differs(nn.Sequential(normzoo.create("batch_norm", 4, track_running_stats=False)))


def test_only_norms_go_back_to_training() -> None:
    model = nn.Sequential(normzoo.create("batch_norm", 4), nn.Dropout(0.5)).eval()
    twin = with_batch_statistics(model)
    assert twin[0].training
    assert not twin[1].training


def test_no_batches_give_empty_predictions() -> None:
    model, *_ = shifted_classifier()
    predicted, true = predict(model, [])
    assert predicted.shape == true.shape == (0,)
