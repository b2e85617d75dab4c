"""Choosing layers, running the benign and the adversarial batch together, and reducing what each layer puts out.

Benign and adversarial inputs go through the model as one batch of 2N, benign half first; a tap reduces the
output of its module at once and keeps nothing. Everything here leaves the model as it was: hooks are removed and
modes restored per module, also when an exception passes through.
"""

from .attached import AttachedHooks
from .channels import ACTIVATIONS, CHANNEL_FIRST, CHANNEL_LAST
from .functional import FUNCTIONAL_MEND, FunctionalActivation, functional_activations
from .hooks import OutputHooks, logits_of, main_tensor
from .isolation import untouched
from .listing import LayerInfo, list_layers
from .pairs import (
    Inputs,
    batch_length,
    call_model,
    evaluation_mode,
    few_pairs,
    hookable,
    leaves,
    mapped,
    pair_inputs,
    paired_forward,
    parameters_device,
    plain_forward,
    read_flags,
)
from .selection import LAYER_GROUPS, Layers, Selection, closest, select_layers
from .stack import failing_layer
from .taps import TapRow, Taps, check_output
from .verify import Findings, verify_pairing

__all__ = [
    "ACTIVATIONS",
    "CHANNEL_FIRST",
    "CHANNEL_LAST",
    "FUNCTIONAL_MEND",
    "LAYER_GROUPS",
    "AttachedHooks",
    "Findings",
    "FunctionalActivation",
    "Inputs",
    "LayerInfo",
    "Layers",
    "OutputHooks",
    "Selection",
    "TapRow",
    "Taps",
    "batch_length",
    "call_model",
    "check_output",
    "closest",
    "evaluation_mode",
    "failing_layer",
    "few_pairs",
    "functional_activations",
    "hookable",
    "leaves",
    "list_layers",
    "logits_of",
    "main_tensor",
    "mapped",
    "pair_inputs",
    "paired_forward",
    "parameters_device",
    "plain_forward",
    "read_flags",
    "select_layers",
    "untouched",
    "verify_pairing",
]
