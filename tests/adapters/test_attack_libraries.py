"""Attacks of other libraries as attacks of this package; those marked ``peer`` need the real libraries."""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.adapters import attacks as adapters
from neurosens_fast.attacks import CW, FGSM, PGD, Worst
from neurosens_fast.audit import audit
from tests.trained import images, right, trained

EPS = 0.2


def torchattacks() -> Any:
    return importlib.import_module("torchattacks")


def foolbox() -> Any:
    return importlib.import_module("foolbox")


def autoattack(model: nn.Module, **options: Any) -> Any:
    """An AutoAttack of one short attack."""
    options = {"version": "custom", "attacks": ["apgd-ce"], "eps": EPS, "seed": 0, **options}
    adversary = importlib.import_module("pyautoattack").AutoAttack(model, **options)
    adversary.apgd.n_restarts, adversary.apgd.n_iter = 1, 10
    return adversary


ADAPTED: dict[str, Callable[[Any], adapters.LibraryAttack]] = {
    "torchattacks": lambda model: adapters.from_torchattacks(torchattacks().PGD(model, eps=EPS, alpha=0.1, steps=3)),
    "foolbox": lambda model: adapters.from_foolbox(foolbox().attacks.LinfPGD(rel_stepsize=0.5, steps=3), model, EPS),
    "autoattack": lambda model: adapters.from_autoattack(autoattack(model)),
}
NAMES = {
    "torchattacks": "torchattacks.PGD",
    "foolbox": "foolbox.LinfProjectedGradientDescentAttack",
    "autoattack": "AutoAttack",
}
REPRS = {
    "torchattacks": ["from_torchattacks(PGD(", "eps=0.2, alpha=0.1, steps=3, random_start=True"],
    "foolbox": ["from_foolbox(LinfProjectedGradientDescentAttack(", "steps=3", "eps=0.2, bounds=(0, 1))"],
    "autoattack": ["from_autoattack(AutoAttack(norm='Linf', eps=0.2, version='custom', attacks=['apgd-ce'], seed=0))"],
}
peer = pytest.mark.peer
each = pytest.mark.parametrize("library", ADAPTED)


def uneven() -> Any:
    """The trained network with modules in different modes, a frozen weight, and a gradient."""
    model: Any = trained().train()
    model.bn2.eval()
    model.fc4.weight.requires_grad_(False)
    model.logits.bias.grad = torch.full((10,), 7.0)
    return model


def traces(model: nn.Module) -> list[Any]:
    """What an attack could have changed, as comparable values."""
    parameters = [
        (name, p.requires_grad, p._version, p.tolist(), None if p.grad is None else (id(p.grad), p.grad.tolist()))
        for name, p in model.named_parameters()
    ]
    modules = [
        (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()
    ]
    return [parameters, modules, [buffer.tolist() for buffer in model.buffers()], torch.is_grad_enabled()]


@peer
@each
@pytest.mark.parametrize("grad_mode", [True, False])
def test_results_lie_in_the_ball_and_the_model_is_as_it_was(library: str, grad_mode: bool) -> None:
    model, (x, y) = uneven(), images(64)
    attack = ADAPTED[library](model)
    kept = x.clone()
    with torch.set_grad_enabled(grad_mode):
        before = traces(model)
        adversarial = attack(x, y.int())
        assert traces(model) == before
    assert attack.model is model
    assert torch.equal(x, kept)
    assert (adversarial.shape, adversarial.dtype, adversarial.requires_grad) == (x.shape, x.dtype, False)
    assert right(model, adversarial, y) < right(model, x, y)
    change = (adversarial.double() - x.double()).abs().amax()
    assert 0.9 * EPS < change <= EPS + torch.finfo(torch.float32).eps, "a rounding at the size of the images"
    assert adversarial.aminmax().min >= 0
    assert adversarial.aminmax().max <= 1


@peer
@each
def test_name_and_repr_tell_what_it_is(library: str) -> None:
    attack = ADAPTED[library](trained())
    assert (attack.attack, attack.bounded) == (NAMES[library], True)
    text = repr(attack)
    assert "\n" not in text
    assert " at 0x" not in text
    for part in REPRS[library]:
        assert part in text


@peer
@each
def test_audit_takes_it(library: str) -> None:
    model, data = uneven(), images(48)
    before = traces(model)
    attack = ADAPTED[library](model)
    report = audit(model, data, attack, ["activations"], batch_size=16, progress=False)
    assert traces(model) == before
    assert report.samples == 48
    assert float(report.sensitivity["relu4"].amax()) > 0
    assert report.attack == repr(attack)


@peer
def test_worst_of_all_three_and_of_ours() -> None:
    model, (x, y) = trained(), images(128)
    attacks = [make(model) for make in ADAPTED.values()]
    worst = Worst([*attacks, PGD(model, EPS, seed=0)])
    assert worst.model is model
    standing = right(model, worst(x, y), y)
    assert standing <= min(right(model, attack(x, y), y) for attack in attacks[1:]) + 2, "their starts are random"
    assert standing < right(model, FGSM(model, 0.02)(x, y), y)


@peer
@each
def test_no_samples(library: str) -> None:
    x, y = images(3)
    assert ADAPTED[library](trained())(x[:0], y[:0]).shape == (0, 1, 8, 8)


@peer
@pytest.mark.parametrize("library", ["torchattacks", "foolbox"])
def test_float64_stays_float64(library: str) -> None:
    x, y = images(8, torch.float64)
    adversarial = ADAPTED[library](trained(torch.float64))(x, y)
    assert adversarial.dtype == torch.float64
    assert not torch.equal(adversarial, adversarial.float().double())


@peer
def test_an_exception_of_the_library_leaves_no_trace() -> None:
    model, (x, y) = uneven(), images(4)
    for library in ADAPTED:
        attack = ADAPTED[library](model)
        before = traces(model)
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            attack(x[..., :4], y)
        assert traces(model) == before


@peer
def test_foolbox_without_eps_gives_the_smallest_and_the_input_where_there_is_none() -> None:
    model, (x, y) = trained(), images(32)
    attack = foolbox().attacks.L2DeepFoolAttack(steps=1)
    adapted = adapters.from_foolbox(attack, model, eps=None)
    assert not adapted.bounded
    found = adapted(x, y)
    raw, _, success = attack(foolbox().PyTorchModel(model, (0, 1), device=x.device), x, y, epsilons=None)
    assert 0 < success.sum() < len(x)
    assert torch.equal(found[success], raw[success])
    assert torch.equal(found[~success], x[~success])


@peer
def test_cw_of_foolbox_through_the_adapter() -> None:
    model, (x, y) = trained(), images(16)
    search: dict[str, Any] = {"steps": 30, "binary_search_steps": 4}
    theirs = adapters.from_foolbox(foolbox().attacks.L2CarliniWagnerAttack(**search), model, eps=None)(x, y)
    assert right(model, theirs, y) == right(model, CW(model, **search)(x, y), y)


@peer
def test_foolbox_refusals() -> None:
    model = trained()
    with pytest.raises(TypeError, match=r"takes an attack such as foolbox.attacks.LinfPGD\(\), got PGD"):
        adapters.from_foolbox(PGD(model), model, EPS)
    with pytest.raises(TypeError, match=r"got the class LinfProjectedGradientDescentAttack"):
        adapters.from_foolbox(foolbox().attacks.LinfPGD, model, EPS)
    with pytest.raises(TypeError, match="not yet wrapped for foolbox, got PyTorchModel"):
        adapters.from_foolbox(foolbox().attacks.LinfPGD(), foolbox().PyTorchModel(model, (0, 1)), EPS)
    with pytest.raises(ValueError, match="does not search for the smallest perturbation; give it eps"):
        adapters.from_foolbox(foolbox().attacks.LinfPGD(), model, None)
    with pytest.raises(ValueError, match="least and the largest value"):
        adapters.from_foolbox(foolbox().attacks.LinfPGD(), model, EPS, bounds=(1, 0))


@peer
def test_autoattack_seeds_nothing_else_and_keeps_the_trace_function() -> None:
    model, (x, y) = trained(), images(8)
    attack = adapters.from_autoattack(autoattack(model), batch_size=3)
    assert repr(attack).endswith("seed=0), batch_size=3)")
    state, tracer = torch.get_rng_state(), sys.gettrace()

    def trace(*arguments: Any) -> None:
        return None

    sys.settrace(trace)
    try:
        attack(x, y)
        assert sys.gettrace() is trace
    finally:
        sys.settrace(tracer)
    assert torch.equal(torch.get_rng_state(), state)


class Recorder:
    """Has what torchattacks' and AutoAttack's objects have, and notes what it is given."""

    def __init__(self, model: object, device: str = "cpu") -> None:
        self.model, self.device = model, device
        self.seen: list[Tensor] = []

    def set_model_training_mode(self) -> None:
        """Only torchattacks has it."""

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.run_standard_evaluation(images, labels)

    def run_standard_evaluation(self, images: Tensor, labels: Tensor) -> Tensor:
        self.seen += [images, labels]
        return (images + 0.25).requires_grad_(True)


def test_gradients_are_enabled_and_modes_restored_without_the_libraries() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout())

    class Looks(Recorder):
        def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
            assert torch.is_grad_enabled()
            assert not model[1].training
            model.train()
            model[0](images).sum().backward()
            return images.requires_grad_(True) + 1

    with torch.no_grad():
        found = adapters.from_torchattacks(Looks(model.eval()))(torch.zeros(2, 4), torch.zeros(2))
    assert torch.equal(found, torch.ones(2, 4))
    assert not found.requires_grad
    assert not model[1].training
    assert model[0].weight.grad is None


def test_autoattack_gets_float32_and_its_result_the_dtype_of_the_images() -> None:
    recorder = Recorder(nn.Linear(4, 3))
    found = adapters.from_autoattack(recorder)(torch.zeros(2, 4, dtype=torch.float64), torch.zeros(2).int())
    assert [tensor.dtype for tensor in recorder.seen] == [torch.float32, torch.int64]
    assert torch.equal(found, torch.full((2, 4), 0.25, dtype=torch.float64))


@pytest.mark.parametrize("adapt", [adapters.from_torchattacks, adapters.from_autoattack])
def test_refusals(adapt: Callable[[Any], adapters.LibraryAttack]) -> None:
    x, y = torch.zeros(2, 4), torch.zeros(2).long()
    for wrong in (PGD(nn.Linear(4, 3)), lambda x, y: x, Recorder, None):
        with pytest.raises(TypeError, match=r"takes .* got (PGD|function|the class Recorder|NoneType)$"):
            adapt(wrong)
    with pytest.raises(TypeError, match=r"got (Recorder|function)$"):
        adapt(Recorder(lambda x: x))
    attack = adapt(Recorder(nn.Linear(4, 3)))
    with torch.inference_mode(), pytest.raises(RuntimeError, match="outside of it"):
        attack(x, y)
    with pytest.raises(ValueError, match=r"made for cuda:1, its model is on cpu"):
        adapt(Recorder(nn.Linear(4, 3), "cuda:1"))(x, y)


def test_autoattack_refuses_other_dtypes_and_batch_sizes() -> None:
    with pytest.raises(ValueError, match=r"computes in float32, the model has torch.float64 parameters"):
        adapters.from_autoattack(Recorder(nn.Linear(4, 3).double()))(torch.zeros(2, 4), torch.zeros(2))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        adapters.from_autoattack(Recorder(nn.Linear(4, 3)), batch_size=0)


def test_foolbox_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "foolbox", None)
    with pytest.raises(ModuleNotFoundError, match=r"from_foolbox needs foolbox; type: pip install foolbox"):
        adapters.from_foolbox(object(), nn.Linear(4, 3), EPS)


def test_a_result_of_another_shape_is_refused() -> None:
    class Half(Recorder):
        def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
            return images[:1]

    attack = adapters.from_torchattacks(Half(nn.Linear(4, 3)))
    with pytest.raises(ValueError, match=r"must return images of shape \[2, 4\], got \[1, 4\]"):
        attack(torch.zeros(2, 4), torch.zeros(2))


def test_it_can_be_copied() -> None:
    attack = copy.deepcopy(adapters.from_torchattacks(Recorder(nn.Linear(4, 3))))
    assert attack.model is attack.wrapped.model
