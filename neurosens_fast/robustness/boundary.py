"""How far decisions lie from inputs: EBD, EBD-2 and ENI, the robustness metrics of the authors' group.

Their names and shapes are those of AISafety EvalBox; where its papers are silent, what follows says "choice of this
package". All run in evaluation mode without a trace in the model, and compute distances in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurosens_fast.attacks import judged
from neurosens_fast.attacks.arguments import check_count, check_number
from neurosens_fast.attacks.losses import widened
from neurosens_fast.capture import evaluation_mode, logits_of


@dataclass(frozen=True)
class BoundaryDistances:
    """Distances ``[N]`` float64 of samples to the boundary; NaN for samples that the model gets wrong anyway.

    ``reached`` ``[N]`` says where a boundary was found; elsewhere the distance is the largest that was tried.
    ``mean`` is that over all samples the model gets right (NaN without any).
    """

    distances: Tensor
    reached: Tensor

    @property
    def mean(self) -> float:
        """Mean over the samples that the model gets right."""
        return float(self.distances.nanmean())


def empirical_boundary_distance(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    directions: int = 10,
    step: float = 0.1,
    steps: int = 100,
    seed: int = 0,
    batch_size: int = 512,
) -> BoundaryDistances:
    """EBD: per sample the least multiple of ``step`` along random orthogonal directions that changes the prediction.

    ``images`` ``[N, *S]``, ``labels`` ``[N]``. The ``directions`` are unit vectors in L2 from the QR decomposition of
    a normal matrix, the same for all samples, walked both ways; the minimum over them counts. Images on the way are
    not clamped: the distance is one in the space of inputs. Number, step and both ways are choices of this package.

    Raises ``ValueError`` for more directions than an image has elements.
    """
    check_number("step", step)
    count = images[0].numel() if len(images) else 0
    if check_count("directions", directions, 1) > count and len(images):
        raise ValueError(f"directions must lie in 1..{count}, the elements of an image, got {directions}")
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(max(1, count), directions, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(normal).Q.T.to(images)
    ways = torch.cat([basis, -basis])
    found = _Search(model, images, labels)
    for taken in range(1, check_count("steps", steps, 1) + 1):
        rows = found.rows()
        for chunk in rows.split(max(1, batch_size // len(ways))):
            if len(chunk):
                moved = images[chunk].flatten(1)[:, None] + taken * step * ways
                wrong = found.wrong(moved.flatten(0, 1).view(-1, *images.shape[1:]), chunk, len(ways))
                found.note(chunk, wrong.view(len(chunk), -1).any(1), taken)
    return found.result(step, steps)


def empirical_boundary_distance_2(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    step: float = 1 / 255,
    steps: int = 100,
    batch_size: int = 512,
) -> BoundaryDistances:
    """EBD-2: per sample the number of small gradient steps until the prediction changes.

    A step adds ``step`` times the sign of the gradient of the cross-entropy, within [0, 1]; the distance is their
    number. That it is signed, and the step, are choices of this package. ``images`` ``[N, *S]`` in [0, 1], ``labels``
    ``[N]``.

    Raises ``ValueError`` for other shapes, labels out of range, or a model without logits ``[N, classes]``.
    """
    check_number("step", step)
    found = _Search(model, images, labels)
    current = images.detach().clone()
    for taken in range(1, check_count("steps", steps, 1) + 1):
        rows = found.rows()
        for chunk in rows.split(batch_size):
            if len(chunk):
                current[chunk] = _ascended(model, current[chunk], labels[chunk], step)
                found.note(chunk, found.wrong(current[chunk], chunk, 1), taken)
    return found.result(1, steps)


def empirical_noise_insensitivity(
    model: nn.Module, images: Tensor, adversarial: Tensor, labels: Tensor, *, batch_size: int = 512
) -> float:
    """ENI: the mean of ``|loss(x) - loss(x')| / max|x - x'|`` over samples, a Lipschitz constant seen at work.

    ``images`` and ``adversarial`` ``[N, *S]``, ``labels`` ``[N]``; the loss is the cross-entropy. A sample that was
    not changed counts as 0 (choice of this package). NaN without samples. Lower is calmer.

    Raises ``ValueError`` where the shapes differ.
    """
    if images.shape != adversarial.shape:
        raise ValueError(f"images {list(images.shape)} and adversarial {list(adversarial.shape)} differ in shape")
    ratios = []
    for chunk in torch.arange(len(images)).split(batch_size):
        if len(chunk):
            x, other, y = images[chunk], adversarial[chunk], labels[chunk].long()
            before, after = (judged(model, part, y)[1].double() for part in (x, other))
            size = (other.double() - x.double()).flatten(1).abs().amax(1)
            ratios.append(torch.where(size > 0, (before - after).abs() / size.where(size > 0, 1.0), 0.0))
    return float(torch.cat(ratios).mean()) if ratios else float("nan")


class _Search:
    """Which samples still have their first prediction, and when the others lost it."""

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        if images.dim() < 2 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"images must be [N, ...] and labels [N], got {list(images.shape)} and {list(labels.shape)}"
            )
        self._model, self._labels = model, labels.long()
        self._taken = torch.zeros(len(images), dtype=torch.float64, device=images.device)
        self._right = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        for chunk in torch.arange(len(images), device=images.device).split(512):
            if len(chunk):
                self._right[chunk] = ~self.wrong(images[chunk], chunk, 1)

    def rows(self) -> Tensor:
        """The samples to go on with."""
        return (self._right & (self._taken == 0)).nonzero()[:, 0]

    def wrong(self, images: Tensor, rows: Tensor, repeats: int) -> Tensor:
        """Which of ``images``, ``repeats`` for each of ``rows``, have another prediction than the label."""
        return ~judged(self._model, images, self._labels[rows].repeat_interleave(repeats))[0]

    def note(self, rows: Tensor, fell: Tensor, taken: int) -> None:
        self._taken[rows[fell]] = taken

    def result(self, unit: float, steps: int) -> BoundaryDistances:
        reached = self._taken > 0
        distances = torch.where(reached, self._taken, float(steps)) * unit
        return BoundaryDistances(torch.where(self._right, distances, torch.nan), reached)


def _ascended(model: nn.Module, images: Tensor, labels: Tensor, step: float) -> Tensor:
    with evaluation_mode(model), torch.enable_grad():
        images = images.detach().requires_grad_(True)
        logits = logits_of(model(images), len(images))
        assert logits is not None  # judged before
        loss = F.cross_entropy(widened(logits), labels.long(), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, images)
    return (images.detach() + step * gradient.sign()).clamp(0, 1)
