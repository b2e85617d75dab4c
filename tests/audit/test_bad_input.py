"""Bad input gives one sentence that names what was wrong and the mend, and leaves the model as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.attacks import FGSM
from neurosens_fast.audit import audit

X = torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(0))
Y = torch.zeros(6, dtype=torch.int64)


def moved(x: Tensor, y: Tensor) -> Tensor:
    """A little attack."""
    return x + 0.1


def test_sizes_that_differ_between_batches(model: Any) -> None:
    batches = [(X, Y), (torch.rand(6, 1, 9, 9), Y)]
    for attack in (moved, FGSM(model)):
        with pytest.raises(
            ValueError, match=r"fails on inputs \[6, 1, 9, 9\] float32 on cpu in layer '4' \(Linear\): .*"
        ):
            audit(model, batches, attack)


def test_dtype_that_the_model_does_not_have(model: Any) -> None:
    with pytest.raises(ValueError, match=r"fails on inputs .* float64 on cpu in layer '0' \(Conv2d\)"):
        audit(model, (X.double(), Y), moved)
    assert audit(model, (X.double(), Y), moved, dtype=torch.float32).dtype == "float32"


def test_an_attacks_own_error_is_not_blamed_on_the_model(model: Any) -> None:
    def failing(x: Tensor, y: Tensor) -> Tensor:
        raise RuntimeError("the attack's own")

    with pytest.raises(RuntimeError, match=r"^the attack's own$"):
        audit(model, (X, Y), failing)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite(value: float, model: Any) -> None:
    with torch.no_grad():
        model[4].weight[0, 0] = value
    with pytest.raises(ValueError, match=r"the model's '4.weight' holds NaN or infinite values.*load weights"):
        audit(model, (X, Y), moved)
    model[1].running_mean[0] = torch.nan
    with pytest.raises(ValueError, match=r"the model's '4.weight' and 1 more"):
        audit(model, (X, Y), moved)


def test_a_mask_of_minus_infinity_is_no_broken_weight(model: Any) -> None:
    model.register_buffer("mask", torch.tensor([-torch.inf]))
    assert audit(model, (X, Y), moved).samples == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "meta"}, r"device='meta' was asked for and the model is on cpu; move it: model.to\('meta'\)"),
        ({"device": "gpu"}, "device 'gpu' is none that torch knows"),
        ({"dtype": torch.int8}, "dtype must be one of torch.float32.*got torch.int8"),
        ({"layers": "relu*"}, "no layer of the model fits the pattern 'relu"),
        ({"channel_dims": {"9": 1}}, "channel_dims names '9', which is not among the tapped layers"),
    ],
)
def test_arguments(settings: dict[str, Any], message: str, model: Any) -> None:
    with pytest.raises(ValueError, match=message):
        audit(model, (X, Y), moved, **settings)


def test_a_model_with_functional_activations_only() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.relu(self.fc(x))

    data = torch.rand(5, 4), torch.zeros(5, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"no activations; functions such as F.relu cannot be hooked .*nn.ReLU"):
        audit(Functional(), data, moved)
    assert audit(Functional(), data, moved, "linear").functional == ("F.relu in the model's own forward (Functional)",)


def test_scripted_models_are_refused(model: Any) -> None:
    with pytest.warns((FutureWarning, DeprecationWarning), match="deprecated"):
        traced = torch.jit.trace(model.eval(), X, check_trace=False)
    with pytest.raises(TypeError, match=r"scripted or traced model calls no hooks; audit the nn.Module"):
        audit(traced, (X, Y), moved, "all")


@pytest.mark.parametrize("settings", [{}, {"device": "cpu"}])
def test_models_on_several_devices_are_refused(settings: dict[str, Any], model: Any) -> None:
    model[4].to("meta")
    with pytest.raises(ValueError, match=r"the model is spread over cpu, meta; it is measured on one device, so load"):
        audit(model, (X, Y), moved, **settings)


def test_compiled_models_are_measured_all_the_same(model: Any) -> None:
    fused, hooked = (audit(model, (X, Y), moved, "all", fuse=fuse) for fuse in (True, False))
    compiled: Any = torch.compile(model, backend="eager")
    whole = audit(compiled, (X, Y), moved, "all")
    model[0].compile(backend="eager")
    model.compile(backend="eager")
    in_place = audit(model, (X, Y), moved, "all")  # has no private copy
    for report, plain in ((whole, fused), (in_place, hooked)):
        assert list(report.layers) == list(plain.layers)
        assert all(torch.equal(report.sensitivity[name], value) for name, value in plain.sensitivity.items())


@pytest.mark.parametrize("where", ["model", "attack", "data"])
def test_interrupted_anywhere_leaves_no_trace(where: str, model: Any) -> None:
    def interrupt(*values: Any) -> Any:
        raise KeyboardInterrupt

    handle = model[2].register_forward_hook(interrupt) if where == "model" else None
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    data: Any = map(interrupt, [0]) if where == "data" else (X, Y)
    with pytest.raises(KeyboardInterrupt):
        audit(model, data, interrupt if where == "attack" else moved, "all")
    assert [module.training for module in model.modules()] == modes
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()] == hooks
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    if handle is not None:
        handle.remove()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes_agree_with_float32(dtype: torch.dtype, model: Any) -> None:
    plain = audit(model, (X, Y), moved, "all")
    if dtype == torch.float64:
        model = model.double()
    other = audit(model, (X, Y), moved, "all", dtype=dtype)
    assert other.dtype == str(dtype)[6:]
    step = torch.finfo(dtype if dtype == torch.bfloat16 else torch.float32).eps
    for name, value in plain.sensitivity.items():
        size = max(
            float(plain.metric(f"max_activation_{half}")[name].abs().max()) for half in ("benign", "adversarial")
        )
        torch.testing.assert_close(other.sensitivity[name], value, rtol=0, atol=8 * step * (size + 1))
