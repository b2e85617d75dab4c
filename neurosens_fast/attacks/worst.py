"""The worst case of several attacks, sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neurosens_fast.capture import evaluation_mode, logits_of

from .base import Attack


class Worst:
    """A callable ``(images, labels) -> adversarial images``: each attack runs on the samples that still stand.

    ``attacks`` are attacks of this package or any callables ``(x, y) -> x_adv``; ``model`` (default: that of the first
    attack that has one) judges, untouched and in evaluation mode, whether a sample fell. Returned is, per sample, the
    first example that fooled it, or else the one with the highest cross-entropy. ``labels`` are the true ones.

    Raises ``ValueError`` without attacks, without a model, for attacks on another model, and for targeted ones.
    """

    def __init__(self, attacks: Sequence[Callable[..., Any]], model: nn.Module | None = None) -> None:
        self.attacks = list(attacks)
        if not self.attacks:
            raise ValueError("Worst needs at least one attack")
        found = model if model is not None else next(filter(None, map(_model_of, self.attacks)), None)
        if found is None:
            raise ValueError("none of the attacks names its model; give Worst(attacks, model=...)")
        for attack in self.attacks:
            if isinstance(attack, Attack) and attack.model is not found:
                raise ValueError(f"{attack.attack} attacks another model; all attacks must share the one that judges")
            if isinstance(attack, Attack) and attack.targeted:
                raise ValueError(f"{attack.attack} is targeted; Worst takes true labels and so untargeted attacks")
        self.model: nn.Module = found

    def __repr__(self) -> str:
        return f"Worst([{', '.join(map(repr, self.attacks))}])"

    def __call__(self, images: Tensor, labels: Tensor, index: Tensor | None = None) -> Tensor:
        """The worst of the attacks for ``images`` ``[N, *S]`` with true ``labels`` ``[N]``; see the class."""
        result = images.detach().clone()
        index = torch.arange(len(images)) if index is None else index
        if not len(images):
            return result
        right, highest = self._judged(result, labels)
        rows = right.nonzero()[:, 0]
        for attack in self.attacks:
            if not len(rows):
                break
            tried = run_attack(attack, images[rows], labels[rows], index[rows.cpu()])
            right, losses = self._judged(tried, labels[rows])
            worse = ~right | (losses > highest[rows])
            result[rows[worse]], highest[rows[worse]] = tried[worse], losses[worse]
            rows = rows[right]
        return result

    def _judged(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return judged(self.model, images, labels)


def judged(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the untouched ``model`` is right about each image, and its cross-entropy; both ``[N]``."""
    with evaluation_mode(model), torch.no_grad():
        logits = logits_of(model(images), len(images))
    if logits is None:
        raise ValueError("the model must return logits [N, classes]; wrap it in a module that returns them")
    least, most = (int(label) for label in labels.aminmax()) if len(labels) else (0, 0)
    if least < 0 or most >= logits.shape[1]:
        raise ValueError(f"labels must lie in 0..{logits.shape[1] - 1}, got {least}..{most}")
    losses = nn.functional.cross_entropy(logits.float(), labels.long(), reduction="none")
    return logits.argmax(1) == labels, losses


def run_attack(attack: Callable[..., Any], images: Tensor, labels: Tensor, index: Tensor) -> Tensor:
    """What ``attack`` makes of ``images``, which it gets with their ``index`` if it is one of this package."""
    adversarial = attack(images, labels, index) if isinstance(attack, Attack | Worst) else attack(images, labels)
    if not isinstance(adversarial, Tensor) or adversarial.shape != images.shape:
        got = list(adversarial.shape) if isinstance(adversarial, Tensor) else type(adversarial).__name__
        raise ValueError(f"the attack must return images of shape {list(images.shape)}, got {got}")
    return adversarial.detach().to(images)


def _model_of(attack: object) -> nn.Module | None:
    model = getattr(attack, "model", None)
    return model if isinstance(model, nn.Module) else None
