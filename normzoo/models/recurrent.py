"""Recurrent networks that read an image row by row, with norms on the gates' inputs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from normzoo.errors import UserError
from normzoo.models.blocks import EVERYWHERE, Norm, Placement, check_positive, sides
from normzoo.models.options import dropout_layers, initialize

GATES = {"lstm": 4, "rnn": 1}


class Recurrent(nn.Module):
    """An LSTM or a plain RNN over the rows of an image, and a linear layer on its last state.

        lstm:  i, f, g, o = norm_x(W_x x_t) + norm_h(W_h h_{t-1}) + bias,  of `hidden` values each
               c_t = sigmoid(f) · c_{t-1} + sigmoid(i) · tanh(g)
               h_t = sigmoid(o) · tanh(norm_c(c_t))
        rnn:   h_t = tanh(norm_x(W_x x_t) + norm_h(W_h h_{t-1}) + bias)

    h and c start at zero, so the first step has no `norm_h`. With `batch_norm` it is the batch-normalized LSTM of
    Cooijmans et al. 2016, with `layer_norm` the layer-normalized one of Ba et al. 2016.

    Stages: 0 is `norm_x`, 1 is `norm_h`, 2 is `norm_c`, which a plain RNN does not have. A norm gets inputs `(N, C)`,
    so that a batch statistic averages N values, and an instance statistic is undefined. The order is `pre_act`: norms
    act on the inputs of the activations. A norm that includes an activation applies it before that of the gates.

    Statistics: with `per_step` every time step has its own norm, because the distribution of the state changes from
    step to step; the norms share weights and biases but not buffers. Without it one norm serves all steps. Rows beyond
    `image_size` use the norm of the last step.

    Init: Xavier uniform, W_h orthogonal, biases zero, except one for the forget gate (Jozefowicz et al. 2015); `init`
    replaces the first two.

    Shape: `(N, in_channels, H, W) -> (N, num_classes)`, as H steps of `in_channels · W` values.

    Source: Hochreiter & Schmidhuber 1997, Long short-term memory; Cooijmans, Ballas, Laurent, Gülçehre & Courville
    2016, Recurrent batch normalization, arXiv:1603.09025, section 3; Ba, Kiros & Hinton 2016, Layer normalization,
    arXiv:1607.06450, section 3.1 and supplementary material. Where norms have biases, only the sum with `bias` matters.

    Args:
        norm: Builds the norm for a number of features.
        placement: Which of the three are normalized.
        image_size: Side of the images, or height and width: the number of steps and of values in each.
        cell: `lstm` or `rnn`.
        hidden: Size of the state.
        per_step: Whether every time step has its own statistics.
        norm_weight: Initial weight of all norms; None for their default. Cooijmans et al. use 0.1, so that tanh does
            not saturate (section 4).
        init: `default` (see above), `he_normal`, `xavier_uniform` or `xavier_normal`.
        init_scale: Factor on every initial weight.
        dropout: Dropout probability before the linear layer.

    Raises:
        UserError: If the cell is unknown, the placement's order is `post_act`, a size is not a positive integer, or
            another option is unknown or out of range; in `forward`, if the rows have another length.
    """

    def __init__(
        self,
        norm: Norm,
        placement: Placement = EVERYWHERE,
        *,
        in_channels: int,
        num_classes: int,
        image_size: int | Sequence[int] | None,
        cell: str = "lstm",
        hidden: int = 64,
        per_step: bool = True,
        norm_weight: float | None = None,
        init: str = "default",
        init_scale: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if cell not in GATES:
            raise UserError(f"recurrent: cell={cell!r} is unknown; choose one of {', '.join(GATES)}")
        check_positive(cell, in_channels=in_channels, num_classes=num_classes, hidden=hidden)
        if placement.order != "pre_act":
            raise UserError(
                f"{cell}: placement.order={placement.order} is not possible in a recurrent cell, whose norms come "
                "before its activations; use placement.order=pre_act"
            )
        steps, width = sides(cell, image_size)
        self.cell = cell
        self.hidden_size = hidden
        self.row = in_channels * width

        gates = GATES[cell] * hidden
        self.input = nn.Linear(self.row, gates, bias=False)
        self.hidden = nn.Linear(hidden, gates, bias=False)
        self.bias = nn.Parameter(torch.zeros(gates))
        stages = 3 if cell == "lstm" else 2
        at = [norm if placement.at(stage, stages) else None for stage in range(stages)]
        count = steps if per_step else 1
        self.norm_x = _norms_of_steps(at[0], gates, count, norm_weight)
        # The first step has no state to normalize.
        self.norm_h = _norms_of_steps(at[1], gates, count - 1 if per_step else 1, norm_weight)
        self.norm_c = _norms_of_steps(at[2] if cell == "lstm" else None, hidden, count, norm_weight)
        self.dropout = nn.Sequential(*dropout_layers(cell, dropout))
        self.output = nn.Linear(hidden, num_classes)

        initialize(cell, self, init, init_scale, own="xavier_uniform")
        with torch.no_grad():
            if init == "default":
                nn.init.orthogonal_(self.hidden.weight, gain=init_scale)
            if cell == "lstm":
                self.bias[hidden : 2 * hidden] = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits."""
        rows = x.permute(2, 0, 1, 3).flatten(2)
        if rows.shape[2] != self.row:
            raise UserError(
                f"{self.cell} was built for rows of {self.row} values (channels times width), got {rows.shape[2]}: "
                "set model.image_size to the size of the images"
            )
        inputs = self.input(rows)
        h = c = inputs.new_zeros(inputs.shape[1], self.hidden_size)
        for t in range(len(inputs)):
            gates = _normalized(self.norm_x, t, inputs[t]) + self.bias
            if t > 0:
                gates = gates + _normalized(self.norm_h, t - 1, self.hidden(h))
            if self.cell == "rnn":
                h = gates.tanh()
            else:
                i, f, g, o = gates.chunk(4, dim=1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * _normalized(self.norm_c, t, c).tanh()
        return self.output(self.dropout(h))


def _norms_of_steps(norm: Norm | None, features: int, count: int, weight: float | None) -> nn.ModuleList:
    """Build a norm for each step, with its own buffers and the parameters of the first."""
    norms = nn.ModuleList(norm(features) for _ in range(count)) if norm else nn.ModuleList()
    for step in norms[1:]:
        for first, other in zip(norms[0].modules(), step.modules(), strict=True):
            other._parameters.update(first._parameters)
    scale = getattr(norms[0], "weight", None) if len(norms) else None
    if weight is not None and isinstance(scale, nn.Parameter):
        nn.init.constant_(scale, weight)
    return norms


def _normalized(norms: nn.ModuleList, t: int, x: Tensor) -> Tensor:
    return norms[min(t, len(norms) - 1)](x) if len(norms) else x
