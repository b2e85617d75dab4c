"""The Lightning callback in trainings of a small network on digits."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from neurosens_fast.adapters.lightning import SensitivityCallback
from neurosens_fast.attacks import FGSM, PGD
from neurosens_fast.audit import audit
from neurosens_fast.data import digits
from tests.processes import run_processes

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::FutureWarning:lightning")


class Digits(lightning.LightningModule):
    """A network with everything that an audit could disturb: batch norm, dropout, a metric with a state."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten())
        self.head = nn.Linear(144, 10)
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int, dataloader_idx: int = 0) -> None:
        self.accuracy(self(batch[0]), batch[1])
        self.log("accuracy", self.accuracy)
        batch[0].zero_()  # a step that uses its batch up

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 3e-3)


class Unvalidated(Digits):
    def validation_step(self, batch: Any, index: int, dataloader_idx: int = 0) -> None:
        """Takes any batch, and holds nothing that cannot be compiled."""


class Counting:
    """FGSM that counts its batches and notes whether gradients were on and inference mode off."""

    def __init__(self, module: nn.Module) -> None:
        self.attack = FGSM(module, eps=0.1)
        self.sizes: list[int] = []

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        self.sizes.append(len(labels))
        return self.attack(images, labels)


def loaders() -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Batches of 64 of 192 images to train, and of 40 of 100 to validate."""
    split = digits()
    train = TensorDataset(split.train_images[:192], split.train_labels[:192])
    return DataLoader(train, 64, shuffle=True), DataLoader(validation(), 40)


def validation() -> TensorDataset:
    split = digits()
    return TensorDataset(split.test_images[:100].clone(), split.test_labels[:100])


def trainer(*callbacks: SensitivityCallback, **options: Any) -> lightning.Trainer:
    usual: dict[str, Any] = {"max_epochs": 2, "accelerator": "cpu", "devices": 1, "logger": False}
    quiet: dict[str, Any] = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(callbacks=list(callbacks), **{**usual, **quiet, **options})


def logged(run: lightning.Trainer, metric: str = "sensitivity") -> dict[str, float]:
    return {name: float(value) for name, value in run.callback_metrics.items() if name.startswith(f"{metric}/")}


@pytest.mark.parametrize("inference_mode", [True, False])
def test_logs_what_an_audit_gives(inference_mode: bool) -> None:
    module = Digits()
    attack = PGD(module, eps=0.1, alpha=0.05, steps=3, seed=1)
    callback = SensitivityCallback(attack, max_samples=64, metric=["sensitivity", "cosine"])
    run = trainer(callback, inference_mode=inference_mode)
    run.fit(module, *loaders())
    data = validation().tensors
    report = audit(module, (data[0], data[1]), attack, max_samples=64, batch_size=40, progress=False)
    assert callback.report is not None
    assert (callback.report.samples, callback.report.correct_adversarial) == (64, report.correct_adversarial)
    assert callback.report.data == ("validation batches",)
    for metric in ("sensitivity", "cosine"):
        expected = {f"{metric}/{layer}": float(values.mean()) for layer, values in report.metric(metric).items()}
        assert expected.keys() == {f"{metric}/body.2"}
        assert logged(run, metric) == pytest.approx(expected, rel=1e-6)


def test_training_goes_on_as_without_it() -> None:
    """Weights, batch-norm statistics, random states and what the module logs are the same bits at the end."""
    ends = []
    for with_callback in (False, True):
        torch.manual_seed(3)
        module = Digits()
        callbacks = [SensitivityCallback(PGD(module, eps=0.1, steps=2))] if with_callback else []
        run = trainer(*callbacks)
        run.fit(module, *loaders())
        ends.append((module.state_dict(), float(run.callback_metrics["accuracy"]), torch.get_rng_state()))
    assert ends[0][1] == ends[1][1]
    assert torch.equal(ends[0][2], ends[1][2])
    for name, value in ends[0][0].items():
        assert torch.equal(value, ends[1][0][name]), name


def test_when_it_runs() -> None:
    """Not in the sanity check; in epochs 2 and 4 of 4; always in ``validate``; and in a run to try things out."""
    module = Digits()
    attack = Counting(module)
    trainer(SensitivityCallback(attack), max_epochs=1, num_sanity_val_steps=2).fit(module, *loaders())
    assert attack.sizes == [40, 40, 20]
    attack.sizes.clear()
    callback = SensitivityCallback(attack, every_n_epochs=2)
    run = trainer(callback, max_epochs=4)
    run.fit(module, *loaders())
    assert attack.sizes == [40, 40, 20] * 2
    run.validate(module, loaders()[1], verbose=False)
    assert attack.sizes == [40, 40, 20] * 3
    attack.sizes.clear()
    quick = trainer(SensitivityCallback(attack), fast_dev_run=True)
    quick.fit(module, *loaders())
    assert attack.sizes == [40]
    assert logged(quick).keys() == {"sensitivity/body.2"}


def test_first_samples_of_the_first_loader() -> None:
    module = Digits()
    attack = Counting(module)
    callback = SensitivityCallback(attack, max_samples=50)
    run = trainer(callback)
    run.validate(module, [loaders()[1], DataLoader(validation(), 7)], verbose=False)
    assert attack.sizes == [40, 10]
    assert logged(run).keys() == {"sensitivity/body.2"}


def test_own_data_without_validation() -> None:
    module = Digits()
    attack = Counting(module)
    data = validation().tensors
    callback = SensitivityCallback(attack, data=(data[0], data[1]), max_samples=60)
    run = trainer(callback)
    run.fit(module, loaders()[0])
    assert attack.sizes == [60, 60]
    report = audit(module, (data[0], data[1]), attack, max_samples=60, progress=False)
    assert logged(run) == pytest.approx({"sensitivity/body.2": float(report.sensitivity["body.2"].mean())}, rel=1e-6)
    assert module.training
    attack.sizes.clear()
    trainer(callback, max_epochs=1).fit(module, *loaders())
    assert attack.sizes == [60], "once per epoch where there is validation too"


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_precision_of_the_trainer(precision: Any) -> None:
    """Own data goes through the trainer's precision, and the module computes in it."""
    module = Digits()
    dtypes: set[torch.dtype] = set()
    module.head.register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))
    data = validation().tensors
    callback = SensitivityCallback(Counting(module), data=(data[0], data[1]), layers="body.2")
    run = trainer(callback, precision=precision, max_epochs=1)
    run.fit(module, *loaders())
    assert dtypes == {torch.float64 if precision == "64-true" else torch.bfloat16}
    assert callback.report is not None
    assert callback.report.data == ("tensors [100, 1, 8, 8]",)
    assert callback.report.samples == 100
    assert 0.001 < logged(run)["sensitivity/body.2"] < 1


def test_compiled_module() -> None:
    module = Unvalidated()
    callback = SensitivityCallback(FGSM(module, eps=0.1))
    run = trainer(callback)
    run.fit(torch.compile(module, backend="eager"), *loaders())  # type: ignore[arg-type]
    data = validation().tensors
    plain = Digits()
    plain.load_state_dict(module.state_dict())
    report = audit(plain, (data[0], data[1]), FGSM(plain, eps=0.1), progress=False)
    assert logged(run) == pytest.approx({"sensitivity/body.2": float(report.sensitivity["body.2"].mean())}, rel=1e-6)


def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Each process attacks its share of the validation data; both log what one process finds for all of it."""
    script = """
        import os, warnings
        from tests.adapters import test_lightning as here

        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
        module = here.Digits()
        callback = here.SensitivityCallback(here.FGSM(module, eps=0.1))
        run = here.trainer(callback, strategy="ddp", devices=2, max_epochs=1)
        run.fit(module, *here.loaders())
        values = {**here.logged(run), "samples": callback.report.samples}
        torch.save((values, module.state_dict()), folder / f"end{rank}.pt")
    """
    run_processes(script, tmp_path)
    (values, state), (others, other_state) = (torch.load(tmp_path / f"end{rank}.pt") for rank in range(2))
    module = Digits()
    module.load_state_dict(state)
    data = validation().tensors
    report = audit(module, (data[0], data[1]), FGSM(module, eps=0.1), progress=False)
    assert values.pop("samples") == others.pop("samples") == 100
    assert values == others
    assert values == pytest.approx({"sensitivity/body.2": float(report.sensitivity["body.2"].mean())}, rel=1e-6)
    for name in ("head.weight", "body.0.weight"):
        assert torch.equal(state[name], other_state[name])


class OnlyFirstProcess(IterableDataset[Any]):
    """Validation images that all come to process 0."""

    def __iter__(self) -> Iterator[Any]:
        return iter(zip(*validation().tensors, strict=True) if torch.distributed.get_rank() == 0 else ())


def test_processes_without_samples_and_with_errors(tmp_path: Path) -> None:
    """No process waits for one that has nothing to attack, or whose attack fails."""
    script = """
        import os, warnings
        from torch.utils.data import DataLoader
        from tests.adapters import test_lightning as here

        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}

        def broken(images, labels):
            if rank == 1:
                raise ValueError("no such attack")
            return images

        module = here.Unvalidated()
        callback = here.SensitivityCallback(here.FGSM(module, eps=0.1))
        run = here.trainer(callback, strategy="ddp", devices=2, max_epochs=1, use_distributed_sampler=False)
        run.validate(module, DataLoader(here.OnlyFirstProcess(), 40), verbose=False)
        found = {"samples": callback.report.samples, **here.logged(run)}
        try:
            run = here.trainer(here.SensitivityCallback(broken), strategy="ddp", devices=2, max_epochs=1)
            run.validate(module, here.loaders()[1], verbose=False)
        except Exception as error:
            found["error"] = f"{type(error).__name__}: {error}"
        torch.save(found, folder / f"end{rank}.pt")
    """
    run_processes(script, tmp_path)
    first, second = (torch.load(tmp_path / f"end{rank}.pt") for rank in range(2))
    assert first.pop("error") == "RuntimeError: the audit failed in process 1: ValueError: no such attack"
    assert second.pop("error") == "ValueError: no such attack"
    assert first == second
    assert first["samples"] == 100
    assert first["sensitivity/body.2"] > 0


def test_bad_input_is_told_before_the_training() -> None:
    module = Digits()
    attack = FGSM(module, eps=0.1)
    for arguments, error, message in (
        ({"attack": 3}, TypeError, r"attack must be a callable \(x, y\) -> x_adv, got int"),
        ({"every_n_epochs": 0}, ValueError, "every_n_epochs must be a whole number of at least 1, got 0"),
        ({"max_samples": 1.5}, ValueError, r"max_samples must be a whole number of at least 1, got 1\.5"),
        ({"metric": "speed"}, ValueError, "unknown metric 'speed'; choose one of sensitivity, "),
    ):
        with pytest.raises(error, match=f"^{message}"):
            SensitivityCallback(**{"attack": attack, **arguments})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^the model has no layer 'body\.20'; closest: body\.2"):
        trainer(SensitivityCallback(attack, "body.20")).fit(module, *loaders())
    with pytest.raises(ValueError, match=r"^channel_dims names 'head', which is not among the tapped layers; "):
        trainer(SensitivityCallback(attack, channel_dims={"head": 1})).fit(module, *loaders())
    with pytest.raises(ValueError, match=r"^this training validates nothing, so there are no batches .*; give data=$"):
        trainer(SensitivityCallback(attack)).fit(module, loaders()[0])
    module.__class__ = type("Digits", (Digits,), {"forward": lightning.LightningModule.forward})
    with pytest.raises(TypeError, match=r"^Digits has no forward; define forward\(x\) that returns logits$"):
        trainer(SensitivityCallback(attack)).fit(module, *loaders())


def test_batches_without_labels() -> None:
    module = Unvalidated()
    images: DataLoader[Any] = DataLoader(validation().tensors[0], 40)  # type: ignore[arg-type]
    callback = SensitivityCallback(FGSM(module, eps=0.1))
    sentence = r"^the validation batches cannot be attacked \(data must give batches .*\); give other data=$"
    with pytest.raises(TypeError, match=sentence):
        trainer(callback).validate(module, images, verbose=False)
    data = validation().tensors
    callback.data = [(data[0], data[1])]
    trainer(callback).validate(module, images, verbose=False)
    assert callback.report is not None


def test_missing_lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "neurosens_fast.adapters.lightning")
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    sentence = r"^neurosens_fast\.adapters\.lightning needs lightning; type: pip install lightning$"
    with pytest.raises(ModuleNotFoundError, match=sentence):
        import neurosens_fast.adapters.lightning  # noqa: F401
