"""Choosing layers, running the benign and the adversarial batch together, and reducing what each layer puts out.

Benign and adversarial inputs go through the model as one batch of 2N, benign half first; a tap reduces the
output of its module at once and keeps nothing. Everything here leaves the model as it was: hooks are removed and
modes restored per module, also when an exception passes through.
"""

from .attached import AttachedHooks
from .calls import Call, CallRecorder
from .channels import ACTIVATIONS, CHANNEL_FIRST, CHANNEL_LAST
from .functional import FUNCTIONAL_MEND, FunctionalActivation, functional_activations
from .hooks import OutputHooks, logits_of, main_tensor
from .isolation import untouched
from .listing import LayerInfo, list_layers
from .pairs import (
    Inputs,
    batch_length,
    call_model,
    devices_of,
    evaluation_mode,
    hookable,
    leaves,
    mapped,
    pair_inputs,
    paired_forward,
    parameters_device,
    plain_forward,
    read_flags,
)
from .rows import PairRows, TapRow, check_output
from .selection import LAYER_GROUPS, Layers, Selection, closest, select_layers
from .stack import failing_layer
from .taps import Taps
from .tokens import TOKENS, attention_mask, shared_mask
from .two_models import PairedModels
from .verify import Findings, few_pairs, verify_pairing

__all__ = [
    "ACTIVATIONS",
    "CHANNEL_FIRST",
    "CHANNEL_LAST",
    "FUNCTIONAL_MEND",
    "LAYER_GROUPS",
    "TOKENS",
    "AttachedHooks",
    "Call",
    "CallRecorder",
    "Findings",
    "FunctionalActivation",
    "Inputs",
    "LayerInfo",
    "Layers",
    "OutputHooks",
    "PairRows",
    "PairedModels",
    "Selection",
    "TapRow",
    "Taps",
    "attention_mask",
    "batch_length",
    "call_model",
    "check_output",
    "closest",
    "devices_of",
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
    "shared_mask",
    "untouched",
    "verify_pairing",
]
