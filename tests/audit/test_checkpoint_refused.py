"""An unfinished audit does not go on as another one, nor in a folder or with data of another."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.attacks import FGSM
from neurosens_fast.audit import AuditReport, ReportError, audit
from neurosens_fast.audit.checkpoint import unfinished
from neurosens_fast.audit.identity import weights_fingerprint

from .conftest import build
from .interrupted import (
    BATCHES,
    IMAGES,
    LABELS,
    Faulty,
    Samples,
    content,
    make_samples,
    random_attack,
)


def begun(folder: Path, **changes: Any) -> None:
    """Leave an unfinished audit in ``folder``."""
    with pytest.raises(Faulty):
        audit(build(), make_samples(20), FGSM(build(), eps=0.1), batch_size=4, checkpoint=folder, **changes)
    assert len(unfinished(folder)) == 1


class OtherSamples(Samples):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = super().__getitem__(index)
        return image * 0.5, label


OtherSamples.__name__ = "Samples"  # the same description


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": "weights"},
            "of another audit, weights: [0-9a-f]{12}, now [0-9a-f]{12}; give the same, or",
        ),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU())}, "model: Sequential, .*, now Sequential"),
        ({"attack": FGSM(build(), eps=0.2)}, r"attack: FGSM\(eps=0.1.*\), now FGSM\(eps=0.2"),
        ({"attack": FGSM(build(), eps=0.1, seed=3)}, r"attack_seeds: \[None\], now \[3\]"),
        ({"data": OtherSamples()}, "of another data set: batch 0 holds other samples now"),
        ({"data": (IMAGES, LABELS)}, r"data: Samples, now tensors \[26, 1, 6, 6\]"),
        ({"layers": "convolutions"}, "layer_choice: activations, now convolutions"),
        ({"batch_size": 5}, "batch_size: 4, now 5"),
        ({"max_samples": 25}, "max_samples: None, now 25"),
        ({"seed": 3}, "seed: 0, now 3"),
        ({"dtype": torch.bfloat16}, "dtype: as given, now bfloat16"),
        ({"channel_dims": {"2": 1}}, "channel_dims"),
    ],
)
def test_another_audit_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    begun(tmp_path)
    before = unfinished(tmp_path)[0].read_bytes()
    if changes.get("model") == "weights":
        changes = {"model": build()}
        with torch.no_grad():
            changes["model"][0].bias[0] += 1e-3
    arguments: dict[str, Any] = {
        "model": build(),
        "data": make_samples(),
        "attack": FGSM(build(), eps=0.1),
        "batch_size": 4,
    }
    with pytest.raises(ReportError, match=message):
        audit(**{**arguments, **changes}, checkpoint=tmp_path, resume=True)
    assert unfinished(tmp_path)[0].read_bytes() == before


def test_a_folder_of_another_run(tmp_path: Path) -> None:
    arguments: Any = (build(), make_samples(), FGSM(build(), eps=0.1))
    with pytest.raises(ReportError, match=r"there is no folder .*missing; make it first"):
        audit(*arguments, batch_size=4, checkpoint=tmp_path / "missing")
    begun(tmp_path)
    with pytest.raises(ReportError, match="is an unfinished audit; resume it, or remove it to begin anew"):
        audit(*arguments, batch_size=4, checkpoint=tmp_path)
    with pytest.raises(ReportError, match="of an audit that is not complete"):
        AuditReport.load(unfinished(tmp_path)[0])
    path = unfinished(tmp_path)[0]
    path.rename(tmp_path / "audit.unfinished-1-of-3.safetensors")
    with pytest.raises(ReportError, match="by another number of processes than 1; start as many as its name says"):
        audit(*arguments, batch_size=4, checkpoint=tmp_path, resume=True)
    (tmp_path / "audit.unfinished-1-of-3.safetensors").unlink()
    audit(*arguments, batch_size=4, checkpoint=tmp_path)
    with pytest.raises(ReportError, match="is a complete report; choose another folder or remove it"):
        audit(*arguments, batch_size=4, checkpoint=tmp_path, resume=True)
    path.write_bytes(content(tmp_path))
    with pytest.raises(ReportError, match="is a report and no unfinished audit"):
        audit(*arguments, batch_size=4, checkpoint=tmp_path, resume=True)
    path.write_bytes(content(tmp_path)[:-9])
    with pytest.raises(ReportError, match="truncated"):
        audit(*arguments, batch_size=4, checkpoint=tmp_path, resume=True)


@pytest.mark.parametrize("shorter", [lambda: BATCHES[:2], lambda: iter(()), lambda: (b for b in BATCHES[:3])])
def test_data_that_end_before_the_place_to_go_on_from(tmp_path: Path, shorter: Any) -> None:
    def broken() -> Iterator[Any]:
        yield from BATCHES[:4]
        raise Faulty("gone")

    arguments: Any = {"batch_size": 4, "checkpoint": tmp_path, "data_description": "batches"}
    with pytest.raises(Faulty):
        audit(build(), broken(), random_attack, **arguments)
    before = unfinished(tmp_path)[0].read_bytes()
    with pytest.raises(ValueError, match=r"the data end after [023] batches, but 4 of this audit are done"):
        audit(build(), shorter(), random_attack, **arguments, resume=True)
    assert unfinished(tmp_path)[0].read_bytes() == before
    assert audit(build(), iter(BATCHES), random_attack, **arguments, resume=True).samples == 26


def test_what_goes_on_elsewhere_is_the_same_audit(tmp_path: Path) -> None:
    def shifted(x: Tensor, y: Tensor, by: float) -> Tensor:
        return x + by

    samples = make_samples(20)
    arguments: Any = {"batch_size": 4, "checkpoint": tmp_path}
    with pytest.raises(Faulty):
        audit(build(), samples, partial(shifted, by=0.1), **arguments)
    samples = make_samples()
    with pytest.raises(ReportError, match=r"attack: partial\(.*by=0\.1\), now partial\(.*by=0\.2\)"):
        audit(build(), samples, partial(shifted, by=0.2), **arguments, resume=True)
    model = build()
    model[2] = nn.ReLU6()
    with pytest.raises(ReportError, match=r"structure: [0-9a-f]{12}, now"):
        audit(model, samples, partial(shifted, by=0.1), **arguments, resume=True)
    with pytest.raises(ValueError, match=r"resume=True goes on in the folder of checkpoint="):
        audit(build(), samples, random_attack, resume=True)
    with pytest.raises(ValueError, match="checkpoint_seconds must be a number of at least 0, got '10'"):
        audit(build(), samples, random_attack, checkpoint_seconds="10")  # type: ignore[arg-type]


def test_weights_of_quantised_models_tell_them_apart() -> None:
    class Packed(nn.Module):
        """Keeps its weights in a tuple that only the state dict shows, as quantised layers do."""

        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
            destination[f"{prefix}_packed_params"] = (torch.full((3,), self.value), None)

    fingerprints = {weights_fingerprint(nn.Sequential(Packed(value))) for value in (1.0, 2.0, 2.0)}
    assert len(fingerprints) == 2
