"""``fit`` against a plain loop, and what it leaves behind."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurosens_fast.attacks import PGD
from neurosens_fast.models import load_model
from neurosens_fast.training import METHODS, DeviceLoader, Settings, fit
from neurosens_fast.training.loader import epoch_seed
from neurosens_fast.training.settings import schedule_factor

from .networks import QUICK, data, network


def hooked_term(model: nn.Module, pair: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Logits of both halves, and the term by hooks that keep activations."""
    kept: list[Tensor] = []
    handles = [
        module.register_forward_hook(lambda _, __, out: kept.append(out))
        for module in model.modules()
        if isinstance(module, nn.ReLU)
    ]
    logits = model(pair)
    for handle in handles:
        handle.remove()
    term = logits.new_zeros(())
    for out in kept:
        benign, adversarial = out.chunk(2)
        sensitivity = (adversarial - benign).abs().flatten(2).mean(2).mean(0)
        count = max(1, int(-(-share * len(sensitivity) // 1)))
        term = term + sensitivity.topk(count).values.mean()
    return logits, term


def plain(method: str, epochs: int, settings: dict[str, Any]) -> tuple[nn.Module, list[float]]:
    """The same training in a loop of its own, with SGD written out."""
    model, (train, _) = network(dtype=torch.float64), data()
    images, labels = train[0].double(), train[1]
    loader = DeviceLoader(images, labels, settings["batch_size"])
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    attack = PGD(
        model, settings["eps"], 2.5 * settings["eps"] / settings["steps"], settings["steps"], exact=True,
        loss="kl" if method == "trades" else "ce",
    )  # fmt: skip
    losses, taken, total = [], 0, epochs * len(loader)
    for epoch in range(1, epochs + 1):
        attack.seed, sums = epoch_seed(0, epoch), 0.0
        for x, y, index in loader.batches(epoch):
            x_adv = attack(x, y, index)
            if method == "pgd-at":
                loss = F.cross_entropy(model(x_adv), y)
            else:
                logits, term = hooked_term(model, torch.cat([x, x_adv]), 0.1 if method == "sns" else 1.0)
                benign, adversarial = logits.chunk(2)
                if method == "trades":
                    apart = F.kl_div(adversarial.log_softmax(1), benign.softmax(1), reduction="batchmean")
                    loss = F.cross_entropy(benign, y) + 6 * apart
                else:
                    loss = F.cross_entropy(adversarial, y) + term
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            lr = settings["lr"] * schedule_factor("cyclic", (taken + 0.5) / total)
            with torch.no_grad():
                for parameter, gradient, v in zip(model.parameters(), gradients, velocity, strict=True):
                    gradient = gradient + 5e-4 * parameter
                    v.mul_(0.9).add_(gradient)
                    parameter -= lr * (gradient + 0.9 * v)
            taken, sums = taken + 1, sums + loss.item() * len(x)
        losses.append(sums / len(images))
    return model, losses


@pytest.mark.parametrize("method", ["pgd-at", "trades", "sns", "vulnerability"])
def test_fit_equals_a_plain_loop(method: str) -> None:
    expected, losses = plain(method, 3, QUICK)
    model = network(dtype=torch.float64)
    (x, y), (x_val, y_val) = data()
    result = fit(model, (x.double(), y), (x_val.double(), y_val), method, 3, keep="last", progress=False, **QUICK)
    assert [row.loss for row in result.history] == pytest.approx(losses, rel=1e-9)
    for (name, value), other in zip(model.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_leaves_no_trace(method: str) -> None:
    model = network().eval()
    model[1].train()  # modes of a person's own
    modes = [module.training for module in model.modules()]
    random.seed(5), numpy.random.seed(5), torch.manual_seed(5)  # noqa: NPY002
    states = random.getstate(), torch.get_rng_state()
    train, val = data(192)
    settings = {**QUICK, "eps": 0.02, "optimizer": "adam", "lr": 0.01}
    result = fit(model, train, val, method, 12, progress=False, **settings)
    assert [row.epoch for row in result.history] == list(range(1, 13))
    assert result.history[-1].loss < 0.8 * result.history[0].loss
    best = result.epoch(result.best_epoch)
    assert best.adversarial_accuracy > 0.6
    with pytest.raises(ValueError, match="there is no epoch 13; the run has 12, counted from 1"):
        result.epoch(13)
    assert best.adversarial_accuracy <= best.clean_accuracy
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    assert len(result.to_pandas()) == 12
    assert (best.term == best.term) == METHODS[method].term


@pytest.mark.parametrize("method", ["trades", "sns"])
def test_a_run_repeats_to_the_bit(method: str) -> None:
    found = []
    for seed in (0, 0, 1):
        model = network(dropout=0.3)
        fit(model, *data(), method, 2, seed=seed, crop=1, flip=True, progress=False, **QUICK)
        found.append(model.state_dict())
        torch.manual_seed(9)  # what other code drew does not matter
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert not torch.equal(found[0]["0.weight"], found[2]["0.weight"])


def test_gradient_evaluations_are_counted() -> None:
    for method, each in (("standard", 1), ("fast", 2), ("pgd-at", 3), ("trades", 4), ("sns", 4)):
        result = fit(network(), *data(), method, 2, progress=False, **QUICK)
        assert [row.gradient_evaluations for row in result.history] == [96 * each, 192 * each], method


def test_an_attack_of_a_persons_own_is_used() -> None:
    seen = []

    def attack(x: Tensor, y: Tensor) -> Tensor:
        seen.append(len(y))
        return (x + 0.01).clamp(0, 1)

    fit(network(), *data(), "pgd-at", 1, attack=attack, progress=False, **QUICK)
    assert seen == [32, 32, 32]


def test_frozen_modules_stay_frozen() -> None:
    model = network().train()
    model[1].eval()
    before = model[1].running_mean.clone()
    fit(model, *data(), "pgd-at", 1, progress=False, **QUICK)
    assert torch.equal(model[1].running_mean, before)
    assert model.training
    assert not model[1].training


def test_separate_forwards_see_halves_by_themselves() -> None:
    """Without batch norm one forward or two are the same; with it they are not."""
    for norm in (False, True):
        found = []
        for joint in (True, False):
            model = network(norm=norm, dtype=torch.float64)
            (x, y), (x_val, y_val) = data()
            fit(model, (x.double(), y), (x_val.double(), y_val), "sns", 1, joint=joint, progress=False, **QUICK)
            found.append(model[0].weight.detach())
        assert torch.allclose(found[0], found[1], rtol=1e-9, atol=1e-12) == (not norm)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
@pytest.mark.parametrize("method", ["pgd-at", "sns"])
def test_mixed_precision_follows_float32(amp: str, method: str) -> None:
    curves = []
    for setting in (None, amp):
        result = fit(
            network(), *data(), method, 4, amp=setting, channels_last=setting is not None, progress=False, **QUICK
        )
        curves.append([row.loss for row in result.history])
    assert curves[1] == pytest.approx(curves[0], rel=0.05)
    assert curves[1] != curves[0]


def test_averaged_weights_are_kept() -> None:
    """Against an average over the weights after each update, all of which an attack of one's own sees."""
    model, seen = network(norm=False), []

    def attack(x: Tensor, y: Tensor) -> Tensor:
        seen.append(model[0].weight.detach().clone())
        return x

    settings = {**QUICK, "schedule": "constant"}
    fit(model, *data(), "pgd-at", 2, attack=attack, keep="last", ema=0.8, progress=False, **settings)
    last = network(norm=False)
    fit(last, *data(), "pgd-at", 2, attack=lambda x, y: x, keep="last", progress=False, **settings)
    average = seen[1]  # after the first update the average is what it left
    for weights in (*seen[2:], last[0].weight.detach()):
        average = 0.8 * average + 0.2 * weights
    torch.testing.assert_close(model[0].weight.detach(), average)


def test_counts_and_indices_are_not_averaged() -> None:
    model = network()
    model.register_buffer("index", torch.arange(9))
    model.register_buffer("flag", torch.tensor(True))
    result = fit(model, *data(), "standard", 2, ema=0.9, keep="last", progress=False, **QUICK)
    assert torch.equal(model.index, torch.arange(9))
    assert bool(model.flag)
    assert int(model[1].num_batches_tracked) == 6
    assert torch.equal(result.best["index"], torch.arange(9))


def test_a_device_loader_is_used_as_it_is() -> None:
    seen: list[list[int]] = []

    def attack(x: Tensor, y: Tensor) -> Tensor:
        seen.append(y.tolist())
        return x

    (x, y), val = data()
    fit(network(), DeviceLoader(x, y, 40, shuffle=False), val, "pgd-at", 1, attack=attack, progress=False, **QUICK)
    assert seen == [part.tolist() for part in y.split(40)]


def test_an_attack_of_ones_own_meets_the_model_in_evaluation_mode() -> None:
    """One that forgets about modes does not move the statistics of batch norm."""
    model, modes = network(), []

    def attack(x: Tensor, y: Tensor) -> Tensor:
        modes.append([module.training for module in model.modules()])
        model(x)
        return x

    fit(model, *data(), "pgd-at", 1, attack=attack, keep="last", progress=False, **QUICK)
    assert not any(any(mode) for mode in modes)
    assert int(model[1].num_batches_tracked) == 3


def test_settings_are_applied(tmp_path: Path) -> None:
    for settings in (
        {"optimizer": "adam"},
        {"optimizer": "adamw", "lr": 0.01},
        {"optimizer": lambda parameters: torch.optim.RMSprop(parameters, lr=0.002)},
        {"schedule": "step"},
        {"schedule": "cosine"},
        {"label_smoothing": 0.1, "clip_norm": 0.01},
        {"k": 2, "distance": "cosine", "scope": "model", "refresh": "epoch", "classify": "half"},
        {"norm": "l2", "eps": 0.3},
    ):
        found = {}
        for name, chosen in (("usual", {}), ("changed", settings)):
            model = network()
            fit(model, *data(), "sns", 1, progress=False, **{**QUICK, **chosen})
            found[name] = model[0].weight.detach()
        assert not torch.equal(found["usual"], found["changed"]), settings


@pytest.mark.parametrize("schedule", ["cyclic", "step", "cosine", "constant"])
def test_schedules(schedule: str) -> None:
    shares = [0, 0.2, 0.4, 0.5, 0.7, 0.75, 1]
    expected = {
        "cyclic": [0, 0.5, 1, 5 / 6, 0.5, 0.25 / 0.6, 0],
        "step": [1, 1, 1, 0.1, 0.1, 0.01, 0.01],
        "cosine": [1, 0.9045085, 0.6545085, 0.5, 0.2061074, 0.1464466, 0],
        "constant": [1] * 7,
    }
    assert [schedule_factor(schedule, share) for share in shares] == pytest.approx(expected[schedule], abs=1e-6)


def test_files(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    model = network()
    result = fit(model, *data(), "sns", 2, out=folder, tensorboard=True, progress=False, **QUICK)
    names = {entry.name for entry in folder.iterdir()}
    assert names == {
        "best.safetensors", "last.safetensors", "checkpoint.safetensors", "training.json", "log.csv", "tensorboard",
    }  # fmt: skip
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef build():\n    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), "
        "nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Dropout(), "
        "nn.Linear(80, 3))\n"
    )
    loaded = load_model(f"{tmp_path / 'net.py'}:build", weights=folder / "best.safetensors")
    x = data()[1][0]
    assert torch.equal(loaded(x), model.eval()(x))
    assert (folder / "log.csv").read_text().splitlines()[0].startswith("epoch,loss,term,train_accuracy,clean_accuracy")
    assert len((folder / "log.csv").read_text().splitlines()) == 3
    assert any((folder / "tensorboard").iterdir())
    assert result.folder == folder


def test_bad_input(tmp_path: Path) -> None:
    train, val = data()
    for error, text, arguments in (
        (ValueError, "unknown method 'snss'; choose one of .*; did you mean sns", {"method": "snss"}),
        (ValueError, "training needs validation data", {"val": None}),
        (ValueError, "epochs must be a whole number of at least 1, got 0", {"epochs": 0}),
        (TypeError, "no argument 'weigth'; did you mean weight", {"weigth": 2}),
        (ValueError, "resume=True needs a folder", {"resume": True}),
        (ValueError, "tensorboard=True needs a folder", {"tensorboard": True}),
        (ValueError, "eps must be finite and at least 0, got -1", {"eps": -1}),
        (ValueError, "amp must be one of 'bf16', 'fp16', got 'half'", {"amp": "half"}),
        (ValueError, "schedule must be one of", {"schedule": "linear"}),
        (ValueError, "optimizer must be one of", {"optimizer": "lion"}),
        (ValueError, r"ema must lie in \[0, 1\), got 1", {"ema": 1}),
        (ValueError, "batch_size must be at least 1", {"batch_size": 0}),
        (ValueError, "takes steps in the Linf ball only", {"method": "fast", "norm": "l2"}),
        (ValueError, "there is no .*checkpoint.safetensors to go on from", {"resume": True, "out": tmp_path / "none"}),
        (TypeError, "model must be a torch.nn.Module", {"model": 3}),
        (ValueError, "no parameter that requires a gradient", {"model": network().requires_grad_(False)}),
        (ValueError, "the validation data gives no samples", {"val": []}),
        (ValueError, "images must lie in", {"train": (train[0] * 300, train[1])}),
        (ValueError, "labels must lie in 0..2", {"val": (val[0], val[1] + 7)}),
        (ValueError, "layer '2'", {"k": 99}),
        (ValueError, "method 'standard' attacks nothing", {"method": "standard", "attack": lambda x, y: x}),
        (
            ValueError,
            "labels must lie in 0..2, got 1..9",
            {"method": "standard", "train": (train[0], train[1] * 4 + 1)},
        ),
        (ValueError, "the inputs of epoch 1, batch 1 are not finite", {"train": (train[0] * torch.nan, train[1])}),
        (
            ValueError,
            r"the model must return logits \[N, classes\] in training",
            {"method": "standard", "model": nn.Sequential(*network()[:3])},
        ),
        (ValueError, "the DeviceLoader is for 2 processes, not 1", {"train": DeviceLoader(*train, 32, world=2)}),
    ):
        given: dict[str, Any] = {
            "model": network(), "train": train, "val": val, "method": "sns", "epochs": 1, "progress": False, **QUICK,
            **arguments,
        }  # fmt: skip
        with pytest.raises(error, match=text):
            fit(**given)


def test_defaults_are_documented() -> None:
    text = Settings.__doc__ or ""
    assert all(f"``{name}``" in text for name in Settings.__dataclass_fields__)


def test_the_bar_shows_the_epoch_before(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    result = fit(network(), *data(), "pgd-at", 2, **QUICK)
    shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", capsys.readouterr().err)
    first = result.history[0]
    assert "epoch 1/2" in shown
    assert f"epoch 2/2  loss {first.loss:.3f}  clean {first.clean_accuracy:.1%}" in shown
    assert "3/3" in shown
