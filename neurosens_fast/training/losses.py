"""Losses of adversarial training as plain functions of logits: use them in a loop of your own.

All take logits ``[N, classes]`` of any floating dtype, labels ``[N]`` int64, compute in float32 (float64 for float64
logits) and return a scalar ``[]`` of that dtype, differentiable in all logits.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from neurosens_fast.attacks.losses import divergence, widened
from neurosens_fast.ops import neuron_sensitivity, sns_loss

Activations = Iterable[tuple[Tensor, Tensor]]
"""Per layer the benign and the adversarial activations, ``[N, C, *S]`` each."""

CLASSIFIED = ("adversarial", "benign", "half")
"""What the cross-entropy of :func:`sns_objective` is taken of."""


def pgd_at_loss(adversarial_logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """``mean CE(f(x'), y)``: adversarial training (Madry et al., ICLR 2018).

    Equivalent to ``F.cross_entropy(adversarial_logits, labels, label_smoothing=label_smoothing)``.
    """
    return F.cross_entropy(widened(adversarial_logits), labels, label_smoothing=label_smoothing)


def trades_loss(
    benign_logits: Tensor, adversarial_logits: Tensor, labels: Tensor, beta: float = 6.0, label_smoothing: float = 0.0
) -> Tensor:
    """``mean CE(f(x), y) + beta mean KL(p(x) || p(x'))``: TRADES (Zhang et al., ICML 2019), where beta is 1/lambda.

    ``x'`` shall maximise the divergence: attack with ``loss="kl"``. Equivalent to::

        p, log_q = benign_logits.softmax(1), adversarial_logits.log_softmax(1)
        F.cross_entropy(benign_logits, labels) + beta * F.kl_div(log_q, p, reduction="batchmean")
    """
    log_p = F.log_softmax(widened(benign_logits), 1)
    apart = divergence(widened(adversarial_logits), log_p).mean()
    return pgd_at_loss(benign_logits, labels, label_smoothing) + beta * apart


def mart_loss(
    benign_logits: Tensor, adversarial_logits: Tensor, labels: Tensor, beta: float = 5.0, label_smoothing: float = 0.0
) -> Tensor:
    """Boosted cross-entropy plus divergence weighted by error: MART (Wang et al., ICLR 2020), where beta is lambda.

    ``mean [CE(f(x'), y) - log(1 - max_{k != y} p_k(x'))] + beta mean [KL(p(x) || p(x')) (1 - p_y(x))]``. The second
    term is computed from the logits, so that it stays finite where the largest probability rounds to 1; the authors'
    code adds small constants instead. ``label_smoothing`` (choice of this package) applies to the cross-entropy.
    """
    benign, adversarial = widened(benign_logits), widened(adversarial_logits)
    rival = adversarial.scatter(1, labels[:, None], -torch.inf).argmax(1)
    without = adversarial.scatter(1, rival[:, None], -torch.inf).logsumexp(1)
    boost = adversarial.logsumexp(1) - without  # -log(1 - p_rival)
    log_p = F.log_softmax(benign, 1)
    doubt = 1 - log_p.gather(1, labels[:, None])[:, 0].exp()
    weighted = (divergence(adversarial, log_p) * doubt).mean()
    return pgd_at_loss(adversarial, labels, label_smoothing) + boost.mean() + beta * weighted


def alp_loss(
    benign_logits: Tensor, adversarial_logits: Tensor, labels: Tensor, weight: float = 0.5, label_smoothing: float = 0.0
) -> Tensor:
    """``½ mean CE(f(x), y) + ½ mean CE(f(x'), y) + weight mean (f(x) - f(x'))²``: adversarial logit pairing.

    Kannan et al., 2018: the loss of a mixed batch, and the pairing over all logits of all samples. That the square is
    a mean over the classes too, not a sum, is a choice of this package.
    """
    benign, adversarial = widened(benign_logits), widened(adversarial_logits)
    classification = _classification(benign, adversarial, labels, "half", label_smoothing)
    return classification + weight * F.mse_loss(adversarial, benign)


def vulnerability_suppression_loss(
    adversarial_logits: Tensor,
    labels: Tensor,
    term: Tensor | Activations,
    weight: float = 1.0,
    benign_logits: Tensor | None = None,
    classify: str = "adversarial",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy ``+ weight Σ_l mean_c sensitivity_c`` over **all** neurons: the loss term of ANP-VS.

    Madaan et al., ICML 2020. Layers are added up as in :func:`sns_objective`, whose other arguments these are, so that
    weights compare; ``term`` is ``SNSLoss(model, k=1.0, ...).loss()`` or pairs of activations.
    """
    if not isinstance(term, Tensor):
        term = _total(neuron_sensitivity(benign, adversarial).mean() for benign, adversarial in term)
    return sns_objective(adversarial_logits, labels, term, weight, benign_logits, classify, label_smoothing)


def sns_objective(
    adversarial_logits: Tensor,
    labels: Tensor,
    term: Tensor | Activations,
    weight: float = 1.0,
    benign_logits: Tensor | None = None,
    classify: str = "adversarial",
    label_smoothing: float = 0.0,
    k: int | float = 0.1,
    norm: int | str = 1,
) -> Tensor:
    """Cross-entropy ``+ weight Σ_l (1/|Ω_l|) Σ_{c in Ω_l} dist_c``: SNS (Zhang et al., IEEE TIP 30:1291, 2021).

    ``term`` is the sum itself, as :meth:`nn.SNSLoss.loss <neurosens_fast.nn.SNSLoss.loss>` gives it (whose own weight
    then counts too), or per layer the pair of activations ``[N, C, *S]``, of which the ``k`` most sensitive neurons
    are taken in the distance ``norm`` (see :func:`~neurosens_fast.ops.sns_loss`). ``classify``: cross-entropy on the
    ``"adversarial"`` samples, on the ``"benign"`` ones, or ``"half"`` each; the last two need ``benign_logits``. The
    form of the objective is a choice of this package.

    Raises ``ValueError`` for another ``classify`` and for benign logits that are missing.
    """
    if not isinstance(term, Tensor):
        term = _total(sns_loss(benign, adversarial, k, norm)[0] for benign, adversarial in term)
    return _classification(benign_logits, adversarial_logits, labels, classify, label_smoothing) + weight * term


def _classification(
    benign_logits: Tensor | None, adversarial_logits: Tensor, labels: Tensor, classify: str, label_smoothing: float
) -> Tensor:
    """The cross-entropy that ``classify`` names."""
    if classify not in CLASSIFIED:
        raise ValueError(f"classify must be one of {', '.join(CLASSIFIED)}, got {classify!r}")
    if classify == "adversarial":
        return pgd_at_loss(adversarial_logits, labels, label_smoothing)
    if benign_logits is None:
        raise ValueError(f"classify={classify!r} needs benign_logits")
    benign = pgd_at_loss(benign_logits, labels, label_smoothing)
    if classify == "benign":
        return benign
    return 0.5 * benign + 0.5 * pgd_at_loss(adversarial_logits, labels, label_smoothing)


def _total(terms: Iterable[Tensor]) -> Tensor:
    found = list(terms)
    if not found:
        raise ValueError("term has no layer: give at least one pair of activations")
    return torch.stack(found).sum()
