"""Signs that an evaluation deceives, in the spirit of AutoAttack's checks (Croce and Hein)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from neurosens_fast.attacks.engine import Engine, checked_switches
from neurosens_fast.attacks.losses import Objective, cross_entropy

from .report import AttackOutcome

_REPEATS = 4
_SAME = 1e-4  # largest L2 distance of normalised logits between forwards of a model that is not random
_SURPRISE = 0.002  # share of samples that a black box alone may fool without a word


def model_warnings(model: nn.Module, images: Tensor, labels: Tensor) -> list[str]:
    """What the untouched ``model`` in evaluation mode shows on one batch ``images`` ``[N, *S]``, ``labels`` ``[N]``."""
    engine = Engine(model, checked_switches({"exact": True}), "the check of gradients")
    engine.begin(images, 1, named_loss=True)
    found = []
    logits = engine.logits(images)
    if _is_random(engine, images, logits):
        found.append(
            "the model is random: the same input gave different logits; attacks on single gradients underrate how "
            "vulnerable it is. Average over its randomness, or evaluate without it"
        )
    rows = logits.double()
    if bool((rows >= -1e-5).all() & (rows <= 1 + 1e-5).all() & ((rows.sum(1) - 1).abs() < 1e-5).all()):
        found.append(
            "the outputs look like probabilities; give the attacks a model that returns logits, since a second softmax "
            "weakens the gradients"
        )
    try:
        slopes = engine.evaluate(images.detach(), Objective(cross_entropy, (labels,))).gradient
    except ValueError:
        return [*found, "the model's output has no gradient for its input; attacks with gradients cannot work"]
    zero = int((slopes.flatten(1) == 0).all(1).sum())
    if zero:
        found.append(
            f"the gradient of {zero} of {len(images)} samples in the first batch is zero; attacks with gradients get "
            "no direction there. Use a loss such as 'dlr', and black-box attacks"
        )
    return found


def outcome_warnings(
    outcomes: Sequence[AttackOutcome], fooled: Mapping[str, Tensor], right: Tensor, samples: int
) -> list[str]:
    """What the comparison of attacks shows; ``fooled`` maps their names to flags ``[samples]``."""
    found = []
    unbounded = [outcome.name for outcome in outcomes if outcome.unbounded]
    if unbounded and len(unbounded) < len(outcomes):
        found.append(f"{', '.join(unbounded)} has no eps: the worst case counts its examples whatever their size")
    black = [outcome.name for outcome in outcomes if outcome.black_box]
    white = [outcome.name for outcome in outcomes if not outcome.black_box]
    if not black or not white:
        return found
    by_black = torch.stack([fooled[name] for name in black]).any(0)
    by_white = torch.stack([fooled[name] for name in white]).any(0)
    alone = int((right & by_black & ~by_white).sum())
    if alone <= _SURPRISE * samples:
        return found
    return [
        *found,
        f"{', '.join(black)} fooled the model on {alone} of {samples} samples where no attack with gradients did: its "
        "gradients are probably masked, and the accuracies under attacks with gradients mean little",
    ]


def _is_random(engine: Engine, images: Tensor, logits: Tensor) -> bool:
    first = nn.functional.normalize(logits.double(), dim=1)
    for _ in range(_REPEATS):
        again = nn.functional.normalize(engine.logits(images).double(), dim=1)
        if bool(((again - first).norm(dim=1) > _SAME).any()):
            return True
    return False
