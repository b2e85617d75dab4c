"""Adversarial targeting: which neurons of a layer are hit most, against a hook and norms written by hand.

Both run the whole network on benign and adversarial images joined, and read the layer's change relative to its values
in one sample; the attack adds noise that was drawn before, so that only this is timed. By hand the norms are
``torch.linalg.vector_norm`` in inference mode, in contiguous and in channels_last memory; of what the report holds,
the histogram, the same by class, and the mean relative change are taken.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neurosens_fast.benchmarking.contest import Contest, agreement
from neurosens_fast.benchmarking.roof import Work
from neurosens_fast.fragility import target
from neurosens_fast.models import load_model

from ..networks import flops, in_channels_last

IMAGES, BATCH = 1000, 125
LAYER, NORM = "conv2", "bn2"


@torch.inference_mode()
def by_hand(model: nn.Module, images: Tensor, adversarial: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Histogram ``[C]``, the same by class ``[classes, C]``, mean relative change ``[C]``."""
    kept: list[Tensor] = []
    handle = model.get_submodule(NORM).register_forward_hook(lambda _m, _i, output: kept.append(output))
    changes = []
    for benign, attacked in zip(images.split(BATCH), adversarial.split(BATCH), strict=True):
        model(torch.cat((benign, attacked)))
        z, z_adv = kept.pop().chunk(2)
        changes.append(torch.linalg.vector_norm(z_adv - z, dim=(2, 3)) / torch.linalg.vector_norm(z, dim=(2, 3)))
    handle.remove()
    change = torch.cat(changes)
    hit, channels = change.argmax(1), change.shape[1]
    by_class = torch.bincount(labels * channels + hit, minlength=10 * channels).view(10, channels)
    return by_class.sum(0), by_class, change.mean(0)


def bench_target(device: str, contest: Contest) -> None:
    count = 50 if contest.quick else IMAGES
    images = torch.rand(count, 1, 28, 28, device=device)
    adversarial = (images + 0.1 * torch.randn_like(images).sign()).clamp(0, 1)
    labels = torch.randint(0, 10, (count,), device=device)
    model = load_model("mnist-cnn").to(device)
    last = in_channels_last(model)
    last_pair = [half.contiguous(memory_format=torch.channels_last) for half in (images, adversarial)]

    def noise(model: nn.Module, eps: float) -> Any:
        batches = iter(adversarial.split(BATCH))
        return lambda x, y: next(batches)

    def ours() -> tuple[Tensor, Tensor, Tensor]:
        report = target(model, (images, labels), noise, LAYER, [0.1], batch_size=BATCH, progress=False)
        return report.histogram[0], report.by_class[0], report.mean_relative_change[0]

    found, wanted = ours(), by_hand(model, images, adversarial, labels)
    apart = int((found[1] - wanted[1].cpu()).abs().sum()) / 2
    assert apart <= count / 500, f"{apart:.0f} samples hit another neuron"  # those whose two largest are equal
    contest(
        f"Adversarial targeting of {LAYER} of mnist-cnn, the attack left out",
        {"images": f"{count:,}"},
        ours,
        rivals={
            "plain PyTorch": lambda: by_hand(model, images, adversarial, labels),
            "plain PyTorch, channels_last": lambda: by_hand(last, last_pair[0], last_pair[1], labels),
        },
        agreed=f"change {agreement(found[2:], [wanted[2].cpu()], rtol=1e-4)}",
        work=Work(flops=flops(lambda: by_hand(model, images, adversarial, labels))),
        memory=("ours", "plain PyTorch"),
        seconds=5.0,
    )
