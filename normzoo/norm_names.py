"""How the names of norms are compared, and what to say of one that is unknown."""

import difflib
import re
from collections.abc import Mapping

from normzoo.norm_info import UnknownNormError

AMBIGUOUS = {
    "layernorm": "that of torch and timm, of the last dimension, is 'nn.LayerNorm' here; of channels and positions it "
    "is 'layer_norm', and of the channels at each position 'layer_norm_channel'",
    "rmsnorm": "that of torch and timm, of the last dimension, is 'nn.RMSNorm' here; of the channels it is 'rms_norm'",
    "localresponsenorm": "that of torch is 'nn.LocalResponseNorm' here; with alpha and k of its paper it is "
    "'local_response_norm'",
    "globalresponsenorm": "that of timm is 'global_response_norm' with channel_dim=-1; for channels first it is "
    "'global_response_norm' alone",
}
"""Names of other libraries' classes that differ from our norm of nearly the same name."""


def key_of(name: str) -> str:
    """Normalize a name: ignore case, `_ - .`, spaces, and a leading `torch.nn.` or `nn.`."""
    return re.sub(r"[-_.\s]", "", re.sub(r"^\s*(torch\.)?nn\.", "", name.lower()))


def key_of_alias(alias: str, options: object) -> str:
    """Normalize an alias as `key_of` does, but keep `nn.LayerNorm`, an alias with options, apart from `layer_norm`."""
    key, of_torch = key_of(alias), re.match(r"\s*(torch\.)?nn\.", alias.lower())
    return f"nn.{key}" if options and of_torch else key


def unknown_norm(name: str, names: Mapping[str, str], broken: Mapping[str, str]) -> UnknownNormError:
    """Return the error for an unknown name, which suggests the norms of the nearest names and aliases, if any.

    Args:
        name: What was typed.
        names: The norm of each key of a name or alias.
        broken: The plug-ins that did not load, with the reason.
    """
    # Match the part before "norm" too; names take precedence over aliases, and short ones over long ones.
    ordered = sorted(names.items(), key=lambda entry: (entry[0] == key_of(entry[1]), -len(entry[0])))
    known = {stem: norm for key, norm in ordered if len(stem := key.partition("norm")[0]) > 3} | dict(names)
    nearest = dict.fromkeys(known[m] for m in difflib.get_close_matches(key_of(name), known, n=6, cutoff=0.76))
    guess = f"did you mean {' or '.join(list(nearest)[:3])}? " if nearest else ""
    failed = "".join(f" The plug-in {plugin} did not load: {why}." for plugin, why in broken.items())
    in_python, in_a_shell = (
        f"unknown norm {name!r}; {guess}{call} lists all {len(set(names.values()))}.{failed}"
        for call in ("normzoo.list_norms()", "`normzoo list`")
    )
    return UnknownNormError(in_python, in_a_shell)
