"""An audit against the number of layers that it taps and of samples that it runs over.

Taps should cost what their layers' activations weigh, and a sample the same however many there are.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from neurosens_fast.attacks import FGSM
from neurosens_fast.audit import audit
from neurosens_fast.benchmarking.contest import Contest
from neurosens_fast.benchmarking.results import Axis
from neurosens_fast.capture import Taps, paired_forward
from neurosens_fast.models import load_model

TAPPED = (1, 2, 4, 8, 17)
SAMPLES = (250, 1_000, 4_000, 16_000)


@pytest.mark.parametrize("layers", TAPPED)
def bench_tapped_layers(layers: int, device: str, contest: Contest) -> None:
    """Plain taps on the last ReLUs of CIFAR ResNet-18 against the bare pass of the joined batch."""
    pairs = 2 if contest.quick else 32
    model = load_model("cifar-resnet18").to(device).eval()
    benign = torch.rand(pairs, 3, 32, 32, device=device)
    adversarial = (benign + 8 / 255 * torch.randn_like(benign).sign()).clamp(0, 1)
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.ReLU)]
    taps = Taps(model, names[-layers:])
    wanted = torch.inference_mode()(model)(torch.cat((benign, adversarial)))

    @torch.inference_mode()
    def bare() -> Tensor:
        found: Tensor = model(torch.cat((benign, adversarial)))
        return found

    def tapped() -> Tensor:
        with taps:
            found: Tensor = paired_forward(model, benign, adversarial)
            return found

    torch.testing.assert_close(tapped(), wanted)
    contest(
        "An audit's pass by the number of ReLUs tapped, CIFAR ResNet-18",
        {"layers": str(len(taps.rows))},
        tapped,
        floors={"bare": bare},
        agreed="same logits",
        axis=Axis("layers", len(taps.rows), "pair", pairs),
        seconds=6.0,
    )


@pytest.mark.parametrize("count", SAMPLES)
def bench_samples(count: int, device: str, contest: Contest) -> None:
    """A whole audit of a small network over random images in the shape of the digits."""
    samples = min(count, 20 + count // 250) if contest.quick else count
    model = load_model("digits-cnn").to(device)
    images = torch.rand(samples, 1, 8, 8, device=device)
    labels = torch.randint(0, 10, (samples,), device=device)
    attack = FGSM(model, eps=0.1)

    def run() -> int:
        return audit(model, (images, labels), attack, "all", batch_size=250, progress=False).samples

    assert run() == samples
    contest(
        "A whole audit by the number of samples: digits-cnn, FGSM, all layers, batches of 250",
        {"samples": f"{samples:,}"},
        run,
        agreed="every sample once",
        memory=("ours",) if count <= 4_000 else (),  # the trace of more would fill the memory that it measures
        axis=Axis("samples", samples, "sample", samples),
        seconds=8.0,
    )
