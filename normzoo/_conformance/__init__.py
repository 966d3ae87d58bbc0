"""What is asked of a norm: a function for each property, whose docstring opens the message of its failure."""

from collections.abc import Callable

from normzoo._conformance import facts, inputs, kinds, torch_features, training, values
from normzoo._conformance.subject import Subject as Subject
from normzoo.norm_info import Kind

CHECKS: tuple[Callable[[Subject], None], ...] = (
    facts.facts_hold,
    facts.reduces_as_stated,
    facts.bends_as_stated,
    values.independent_of_batch,
    values.agrees_with_reference,
    values.trains_its_parameters,
    values.gradcheck,
    values.gradgradcheck,
    values.evaluates_deterministically,
    values.keeps_dtype,
    values.autocast,
    inputs.leaves_inputs_alone,
    inputs.keeps_channels_last,
    inputs.huge_offset,
    inputs.refuses_other_numbers,
    inputs.takes_any_strides,
    inputs.constant_input,
    inputs.empty_batch,
    inputs.one_sample,
    inputs.ranks_as_stated,
    training.survives_overflow,
    training.follows_loss_scale,
    training.recomputes,
    torch_features.survives_saving,
    torch_features.pickles,
    torch_features.compiles,
    torch_features.compiles_for_any_size,
    torch_features.traces,
    torch_features.exports,
    torch_features.exports_to_onnx,
    torch_features.replicas_under_vmap,
    torch_features.leaves_global_state_alone,
    torch_features.meta_device,
)

SLOW: tuple[Callable[[Subject], None], ...] = (
    values.gradcheck,
    inputs.huge_offset,
    torch_features.compiles,
    torch_features.compiles_for_any_size,
    torch_features.exports,
    torch_features.exports_to_onnx,
)

OF_KIND: dict[Kind, tuple[Callable[[Subject], None], ...]] = {
    "layer": (),
    "conditional": (kinds.follows_the_condition,),
    "weight": (kinds.parametrizes_the_weight, kinds.follows_its_parameters, kinds.can_be_removed),
}
