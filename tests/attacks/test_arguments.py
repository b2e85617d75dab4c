"""Arguments that attacks refuse, and what explain() says of the switches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from neurosens_fast.attacks import APGD, APGDT, CW, FGSM, MIFGSM, PGD, Square
from neurosens_fast.ops import supports_winograd

from .networks import convolutional, images

SETTINGS: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    (APGD, {"norm": "l1"}, ValueError, "norm must be one of 'linf', 'l2', got 'l1'"),
    (APGD, {"restarts": 0}, ValueError, "restarts must be at least 1, got 0"),
    (APGD, {"rho": -1.0}, ValueError, "rho must be finite and at least 0"),
    (APGDT, {"target_classes": 0}, ValueError, "target_classes must be at least 1"),
    (CW, {"c": -1.0}, ValueError, "c must be finite and at least 0"),
    (CW, {"binary_search_steps": 0}, ValueError, "binary_search_steps must be at least 1"),
    (CW, {"eps": 1.0}, TypeError, "unknown argument 'eps'; attacks also take exact, fold"),
    (FGSM, {"norm": "l2"}, TypeError, "unknown argument 'norm'"),
    (Square, {"n_queries": -1}, ValueError, "n_queries must be at least 0"),
    (MIFGSM, {"decay": -0.5}, ValueError, "decay must be finite and at least 0"),
    (PGD, {"fuse": True}, TypeError, "unknown argument 'fuse'; attacks also take exact, fold, channels_last"),
    (PGD, {"fold": 1}, TypeError, "fold must be True or False, got 1"),
    (PGD, {"dtype": torch.float16}, ValueError, "dtype must be None, torch.float32 or torch.bfloat16, got torch.float"),
    (PGD, {"exact": True, "fold": True}, ValueError, "exact=True turns every switch off; leave out fold"),
    (PGD, {"exact": True, "dtype": torch.bfloat16}, ValueError, "leave out dtype"),
    (PGD, {"exact": True, "dtype": torch.float32, "compaction": True}, ValueError, "leave out compaction"),
    (PGD, {"seed": -1}, ValueError, "seed must be at least 0"),
    (PGD, {"seed": 1.0}, TypeError, "seed must be a whole number"),
]


@pytest.mark.parametrize(("kind", "arguments", "error", "message"), SETTINGS)
def test_refused_arguments(kind: Any, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kind(convolutional(), **arguments)


def test_exact_turns_all_off_and_says_so() -> None:
    model, (x, y) = convolutional(), images()
    attack = PGD(model, exact=True, fold=False, dtype=torch.float32)
    assert attack.explain() == "PGD has not run yet; call it on images and labels first"
    attack(x, y)
    assert attack.explain().splitlines() == [
        *(
            f"{switch}: no, exact=True"
            for switch in ("fold", "channels_last", "winograd", "dtype", "compaction", "graph")
        ),
    ]
    assert repr(attack) == (
        "PGD(eps=0.0313725, alpha=0.00784314, steps=10, random_start=True, norm='linf', exact=True)"
    )


FEW_CHANNELS = "winograd: no, no convolution 3x3 of stride 1 and padding 1 has at least 16 input and 32 output channels"
CONTIGUOUS = "winograd: no, images and convolutions do not lie in channels_last memory"
NO_VECTORS = "winograd: no, it needs float32, or bfloat16 without AMX, on a CPU with AVX2 or AVX-512"


def test_explain_names_each_switch_and_its_reason() -> None:
    model, (x, y) = convolutional(), images()
    attack = PGD(model)
    attack(x, y)
    graph = "graph: no, the images are on cpu"
    assert attack.explain().splitlines() == [
        "fold: yes, 2 batch norms folded into the layers before them, on a private copy",
        "channels_last: yes, images and convolutions lie in channels_last memory",
        FEW_CHANNELS if supports_winograd(x.device, x.dtype) else NO_VECTORS,
        "dtype: no, the model runs in the dtype of the images, float32",
        "compaction: no, every sample gets all steps (compaction=False)",
        graph,
    ]
    attack = PGD(model, fold=False, channels_last=False, graph=False, compaction=True, dtype=torch.bfloat16)
    attack(x, y)
    assert attack.explain().splitlines() == [
        "fold: no, switched off",
        "channels_last: no, switched off",
        CONTIGUOUS,
        "dtype: yes, the model runs in bfloat16, perturbation and loss in float32",
        "compaction: yes, samples that fell are dropped",
        "graph: no, switched off",
    ]
    single = FGSM(model)
    single(x, y)
    assert single.explain().splitlines()[0] == "fold: no, a single pass would not repay the copy"
    grey = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 5)).eval()
    attack = PGD(grey)
    attack(x[:, :1], y)
    assert attack.explain().splitlines()[:2] == [
        "fold: yes, 1 batch norms folded into the layers before them, on a private copy",
        "channels_last: yes, images and convolutions lie in channels_last memory",
    ]
    attack.steps = 1
    attack(x[:, :1], y)
    assert "fold: no, a single pass would not repay the copy" in attack.explain()
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5)).eval()
    attack = PGD(flat)
    attack(x[:, :1], y)
    assert attack.explain().splitlines()[:2] == [
        "fold: yes, 1 batch norms folded into the layers before them, on a private copy",
        "channels_last: no, the inputs are no images [N, C, H, W], or there is no 2-D convolution",
    ]
