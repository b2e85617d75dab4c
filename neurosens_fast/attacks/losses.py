"""What attacks maximise: losses per sample of the logits, by name, or functions of a person's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]
"""``(logits [N, classes], labels [N]) -> [N]``, larger where the attack is closer to its aim."""


def widened(values: Tensor) -> Tensor:
    """``values`` in float32, or as they are in float64: what losses and norms are computed in."""
    return values if values.dtype == torch.float64 else values.float()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy ``[N]`` of ``logits`` ``[N, classes]``."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The largest other logit minus that of the label, ``[N]``: above 0 where the prediction is wrong."""
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.amax(1) - own[:, 0]


def difference_of_logits_ratio(logits: Tensor, labels: Tensor) -> Tensor:
    """DLR loss ``[N]`` (Croce and Hein, ICML 2020): the margin over the distance of the first and the third logit.

    ``-(z_y - max_{i != y} z_i) / (z_1 - z_3 + 1e-12)`` with the logits in descending order. It does not change with
    the scale of the logits. Needs three classes.
    """
    first, _, third = logits.topk(3, dim=1).values.unbind(1)
    return margin(logits, labels) / (first - third + 1e-12)


def targeted_difference_of_logits_ratio(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Targeted DLR loss ``[N]`` (Croce and Hein, ICML 2020), which leads from ``labels`` to ``targets``.

    ``-(z_y - z_t) / (z_1 - (z_3 + z_4) / 2 + 1e-12)``. Needs four classes.
    """
    first, _, third, fourth = logits.topk(4, dim=1).values.unbind(1)
    own, aimed = (logits.gather(1, which[:, None])[:, 0] for which in (labels, targets))
    return (aimed - own) / (first - 0.5 * (third + fourth) + 1e-12)


def difference_of_logits_ratio_to(logits: Tensor, targets: Tensor) -> Tensor:
    """DLR loss ``[N]`` towards ``targets``: :func:`targeted_difference_of_logits_ratio` from the largest other class.

    The untargeted form with its sign changed would not do: where the target ranks third it is -1, without a gradient.
    """
    first, _, third, fourth = logits.topk(4, dim=1).values.unbind(1)
    return -margin(logits, targets) / (first - 0.5 * (third + fourth) + 1e-12)


def divergence(logits: Tensor, log_probabilities: Tensor) -> Tensor:
    """``KL(p || q)`` ``[N]`` of the clean predictions ``p``, given by their logarithm, and those of ``logits``.

    The inner loss of TRADES (Zhang et al., ICML 2019); it does not know the labels, and is 0 with a gradient of 0 at
    the clean input, so that an attack needs a random start.
    """
    return F.kl_div(F.log_softmax(logits, 1), log_probabilities, reduction="none", log_target=True).sum(1)


BY_NAME: dict[str, Loss] = {"ce": cross_entropy, "dlr": difference_of_logits_ratio, "margin": margin}
"""The losses of labels; ``"kl"`` needs the clean logits too."""
NAMES = (*BY_NAME, "kl")

_LEAST_CLASSES = {
    difference_of_logits_ratio: 3,
    targeted_difference_of_logits_ratio: 4,
    difference_of_logits_ratio_to: 4,
}


@dataclass(frozen=True)
class Objective:
    """A loss on given samples: ``function(logits, *tensors)`` ``[N]`` times ``sign``, to be maximised.

    ``tensors`` have the samples first; ``extremes`` are the least and the largest label.
    """

    function: Callable[..., Tensor]
    tensors: tuple[Tensor, ...]
    sign: float = 1.0
    extremes: tuple[int, int] = (0, 0)

    def __call__(self, logits: Tensor) -> Tensor:
        """The losses ``[N]`` in float32 or wider.

        Raises ``ValueError`` for labels out of range, too few classes, or a function that does not give one value per
        sample.
        """
        self.check(logits)
        logits = widened(logits)
        losses = self.function(logits, *self.tensors)
        if not isinstance(losses, Tensor) or losses.shape != logits.shape[:1]:
            got = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise ValueError(f"the loss must give one value per sample, [{logits.shape[0]}], got {got}")
        return self.sign * losses

    def check(self, logits: Tensor) -> None:
        """``ValueError`` for labels out of range of ``logits`` ``[N, classes]``, or too few classes."""
        classes = logits.shape[1]
        if self.extremes[0] < 0 or self.extremes[1] >= classes:
            raise ValueError(
                f"labels must lie in 0..{classes - 1} for a model with {classes} classes, got "
                f"{self.extremes[0]}..{self.extremes[1]}"
            )
        if classes < (least := _LEAST_CLASSES.get(self.function, 2)):
            raise ValueError(f"this form of the DLR loss needs {least} classes, the model has {classes}; use 'ce'")

    def rows(self, rows: Tensor) -> Objective:
        """The same for some of the samples."""
        return replace(self, tensors=tuple(tensor[rows] for tensor in self.tensors))
