"""Repair: the factors against sums by hand, what is scaled where, and a model that is left alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from neurosens_fast.fragility.repair import repair, repair_scales
from neurosens_fast.fragility.scaling import filter_norms, scale_neurons
from neurosens_fast.models import DigitsCNN
from tests.trained import images, trained

from .reports import report_of

CLASSES = "frrafrrrrfrrarrf"  # of the 16 neurons of conv1


def output_of(model: nn.Module, layer: str, x: Tensor) -> Tensor:
    """What ``layer`` puts out in evaluation mode."""
    found: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, inputs, output: found.append(output))
    with torch.no_grad():
        model.eval()(x)
    handle.remove()
    return found[0]


def sum_of_norms(model: Any, folded: bool) -> float:
    """The sum of the norms of the filters of conv1, filter by filter."""
    total = 0.0
    for channel in range(16):
        weights = model.conv1.weight[channel].detach().double().flatten()
        if folded:
            weights = weights * model.bn1.weight[channel].item()
            weights = weights / (model.bn1.running_var[channel].item() + model.bn1.eps) ** 0.5
        total += sum(value**2 for value in weights.tolist()) ** 0.5
    return total


def places(letter: str) -> list[int]:
    return [place for place, found in enumerate(CLASSES) if found == letter]


@pytest.mark.parametrize(("where", "folded"), [("after_norm", True), ("before_norm", False)])
@pytest.mark.parametrize("compress", [0.2, 0.5, 0.9])
def test_the_sum_of_norms_is_conserved(where: str, folded: bool, compress: float) -> None:
    model = trained(torch.float64)
    repaired = repair(model, report_of(CLASSES), compress, where=where)
    before, after = sum_of_norms(model, folded), sum_of_norms(repaired, folded)
    assert after == pytest.approx(before, rel=1e-12)
    scales = repair_scales(model, report_of(CLASSES), compress, where=where)
    assert scales.dtype == torch.float64
    assert (scales[places("r")] == compress).all()
    assert (scales[places("a")] == 1).all()
    gains = scales[places("f")]
    assert (gains == gains[0]).all()
    assert gains[0] > 1
    other = repair_scales(model, report_of(CLASSES), compress, where="before_norm" if folded else "after_norm")
    assert (other - scales).abs().max() > 1e-3, "both ways give the same, so the sums cannot tell them apart"


def test_only_dropped_neurons_are_scaled() -> None:
    report = report_of("frr", channels=16, neurons=[3, 5, 9])
    scales = repair_scales(trained(), report, 0.5)
    assert (scales != 1).nonzero().flatten().tolist() == [3, 5, 9]
    assert scales[[5, 9]].tolist() == [0.5, 0.5]


def test_nothing_is_conserved_on_request() -> None:
    scales = repair_scales(trained(), report_of(CLASSES), 0.25, "none")
    assert scales.tolist() == [0.25 if letter == "r" else 1 for letter in CLASSES]
    assert repair_scales(trained(), report_of("r" * 16), 0.25, "none").tolist() == [0.25] * 16


def test_classes_follow_score_and_threshold() -> None:
    report = report_of(CLASSES)
    assert (repair_scales(trained(), report, 0.5, "none", score="clean") == 0.5).all()
    with pytest.raises(ValueError, match=r"16 are robust, 0 fragile and 0 antifragile.*threshold 0\.5"):
        repair_scales(trained(), report, threshold=0.5)


@pytest.mark.parametrize("where", ["after_norm", "before_norm"])
def test_what_is_scaled(where: str) -> None:
    model, x = trained(torch.float64), images(20, torch.float64)[0]
    scales = repair_scales(model, report_of(CLASSES), 0.3, where=where).view(1, -1, 1, 1)
    repaired = repair(model, report_of(CLASSES), 0.3, where=where)
    layer = "bn1" if where == "after_norm" else "conv1"
    expected = scales * output_of(model, layer, x)
    torch.testing.assert_close(output_of(repaired, layer, x), expected, rtol=1e-12, atol=1e-12)
    changed = [
        name for name, value in repaired.state_dict().items() if not torch.equal(value, model.state_dict()[name])
    ]
    assert changed == (["bn1.weight", "bn1.bias"] if where == "after_norm" else ["conv1.weight"])


@pytest.mark.parametrize(
    ("layer", "channels_first"),
    [
        (nn.Conv2d(4, 6, 3, groups=2), True),
        (nn.Conv1d(4, 6, 2, bias=False), True),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), True),
        (nn.ConvTranspose1d(4, 6, 3), True),
        (nn.Linear(4, 6), False),
        (nn.BatchNorm2d(4), True),
        (nn.BatchNorm2d(4, affine=False), True),
        (nn.GroupNorm(2, 4), True),
        (nn.GroupNorm(2, 4, affine=False), True),
        (nn.InstanceNorm2d(4), True),
        (nn.LayerNorm(4), False),
        (nn.LayerNorm(4, elementwise_affine=False), False),
        (nn.RMSNorm(4), False),
    ],
    ids=lambda value: str(value).replace(" ", "") if isinstance(value, nn.Module) else "",
)
def test_every_kind_of_layer(layer: nn.Module, channels_first: bool) -> None:
    model = nn.Sequential(layer).double().eval()
    model.register_parameter(
        "other", nn.Parameter(torch.ones(1, dtype=torch.float64))
    )  # weights given follow its dtype
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 2)
    dims = 1 if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d) else 2 if channels_first else 0
    x = torch.randn(5, 4, *(7,) * dims, dtype=torch.float64) if channels_first else torch.randn(5, 3, 4).double()
    plain = model(x)
    channels = plain.shape[1] if channels_first else plain.shape[-1]
    scales = torch.linspace(0.1, 3, channels, dtype=torch.float64)
    shaped = scales.view(-1, *(1,) * (plain.dim() - 2)) if channels_first else scales
    state = set(model.state_dict())
    scaled = scale_neurons(model, "0", scales)
    torch.testing.assert_close(scaled(x), shaped * plain, rtol=1e-12, atol=1e-12)
    assert set(model.state_dict()) == state
    back = scale_neurons(scaled, "0", 1 / scales)
    torch.testing.assert_close(back(x), plain, rtol=1e-12, atol=1e-12)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], value, rtol=1e-12, atol=0)
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.ConvTranspose1d | nn.Conv1d | nn.Linear):
        # A filter is what an output channel makes of unit inputs: its norm without the layer's own layout of weights.
        assert filter_norms("0", layer) == pytest.approx(filters_by_impulses(layer, dims), rel=1e-12)


def filters_by_impulses(layer: Any, dims: int) -> list[float]:
    """The norm of each channel's filter from the outputs for single inputs of 1."""
    squares = []
    for channel in range(4):
        x = torch.zeros(1, 4, *(9,) * dims, dtype=torch.float64)
        x[(0, channel, *(4,) * dims)] = 1
        change: Tensor = (layer(x) - layer(0 * x)).detach()
        squares.append((change**2).view(1, change.shape[1], -1).sum(2)[0])
    total: list[float] = torch.stack(squares).sum(0).sqrt().tolist()
    return total


def test_a_norm_without_weights_gets_ones_that_stay() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False)).double()
    repaired: Any = repair(model, report_of("frra", "0", "1"), 0.5)
    assert repaired[1].weight.tolist() == repair_scales(model, report_of("frra", "0", "1"), 0.5).tolist()
    assert repaired[1].weight.dtype == torch.float64
    assert not repaired[1].weight.requires_grad
    assert repaired[1].bias.tolist() == [0] * 4
    assert model[1].weight is None


def test_no_norm_behind_and_a_linear_layer() -> None:
    model = trained(torch.float64)
    report = report_of("fr" * 64, "fc4", "fc4")
    repaired: Any = repair(model, report, 0.5)
    norms = model.fc4.weight.norm(dim=1).sum(), repaired.fc4.weight.norm(dim=1).sum()
    assert norms[1].item() == pytest.approx(norms[0].item(), rel=1e-12)
    assert torch.equal(repaired.fc4.bias[1::2], 0.5 * model.fc4.bias[1::2])
    before_norm: Any = repair(model, report, 0.5, where="before_norm")
    assert torch.equal(before_norm.fc4.weight, repaired.fc4.weight)


def test_a_norm_as_the_layer_itself() -> None:
    model: Any = trained(torch.float64)
    scales = repair_scales(model, report_of(CLASSES, "bn1", "bn1"), 0.5)
    gains = (model.bn1.weight / (model.bn1.running_var + model.bn1.eps).sqrt()).abs().detach()
    assert (scales * gains).sum().item() == pytest.approx(gains.sum().item(), rel=1e-12)


def test_norm_of_a_report_from_before_the_norm() -> None:
    model = trained()
    report = report_of(CLASSES, "conv1", "conv1", "before_norm")
    with pytest.raises(ValueError, match="which one reads 'conv1'; name it, as in norm='bn1'"):
        repair(model, report, where="after_norm")
    named = repair_scales(model, report, where="after_norm", norm="bn1")
    assert torch.equal(named, repair_scales(model, report_of(CLASSES)))
    with pytest.raises(ValueError, match="'relu1' is a ReLU"):
        repair(model, report, where="after_norm", norm="relu1")
    with pytest.raises(ValueError, match="'conv3' is a Conv2d, not the norm"):
        repair(model, report, where="after_norm", norm="conv3")
    with pytest.raises(ValueError, match="norm='bn1' is for where='after_norm'"):
        repair(model, report, norm="bn1")


def test_the_model_is_untouched_and_the_copy_alike() -> None:
    model = trained()
    seen: list[str] = []
    model.relu1.register_forward_hook(lambda *_: seen.append("relu1"))
    model.conv2.weight.requires_grad_(False)
    model.train()
    model.bn3.eval()
    model(images(8)[0]).sum().backward()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = {name: (id(value), value.grad) for name, value in model.named_parameters()}
    gradients = {name: None if grad is None else grad.clone() for name, (_, grad) in parameters.items()}
    modes = [module.training for module in model.modules()]
    seen.clear()
    before = torch.get_rng_state()
    repaired = repair(model, report_of(CLASSES), 0.5, reestimate=images(64), progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    for name, value in model.named_parameters():
        assert (id(value), value.grad) == parameters[name]
        if value.grad is not None:
            assert torch.equal(value.grad, gradients[name])  # type: ignore[arg-type]
    assert [module.training for module in model.modules()] == modes
    assert [module.training for module in repaired.modules()] == modes
    assert all(value.grad is None for value in repaired.parameters())
    required = [(name, value.requires_grad) for name, value in model.named_parameters()]
    assert [(name, value.requires_grad) for name, value in repaired.named_parameters()] == required
    ours = {value.data_ptr() for value in model.state_dict().values()}
    assert not ours & {value.data_ptr() for value in repaired.state_dict().values()}
    seen.clear()
    repaired(images(2)[0])
    assert seen == ["relu1"]
    assert len(model.relu1._forward_hooks) == 1


def by_hand(model: nn.Module, x: Tensor, norms: list[str], batch: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean over batches of mean and unbiased variance, norm after norm, in batch statistics."""
    model = copy.deepcopy(model).eval()
    sums: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in norms}
    for name in norms:
        norm: Any = model.get_submodule(name)

        def own(module: Any, inputs: Any, output: Tensor, name: str = name) -> Tensor:
            z = inputs[0]
            mean, variance = z.mean((0, 2, 3)), z.var((0, 2, 3), unbiased=False)
            count = z.numel() // z.shape[1]
            sums[name].append((mean, variance * count / (count - 1)))
            scaled = (z - mean.view(1, -1, 1, 1)) / (variance.view(1, -1, 1, 1) + module.eps).sqrt()
            return scaled * module.weight.view(1, -1, 1, 1) + module.bias.view(1, -1, 1, 1)

        norm.register_forward_hook(own)
    with torch.no_grad():
        for part in x.split(batch):
            model(part)
    return {
        name: (torch.stack([m for m, _ in found]).mean(0), torch.stack([v for _, v in found]).mean(0))
        for name, found in sums.items()
    }


@pytest.mark.parametrize(("where", "norms"), [("after_norm", ["bn2", "bn3"]), ("before_norm", ["bn1", "bn2", "bn3"])])
def test_statistics_are_those_by_hand(where: str, norms: list[str]) -> None:
    model, (x, y) = trained(torch.float64), images(100, torch.float64)
    plain = repair(model, report_of(CLASSES), 0.4, where=where)
    renewed = repair(
        model, report_of(CLASSES), 0.4, where=where, reestimate=(x, y), batch_size=32, max_samples=90, progress=False
    )
    expected = by_hand(plain, x[:90], norms, 32)
    state = renewed.state_dict()
    for name, value in plain.state_dict().items():
        norm, _, kind = name.rpartition(".")
        if norm in norms and kind in ("running_mean", "running_var"):
            wanted = expected[norm][kind == "running_var"]
            torch.testing.assert_close(state[name], wanted, rtol=1e-10, atol=1e-12)
            assert (wanted - value).abs().max() > 1e-4
        else:
            assert torch.equal(state[name], value), name
    assert [module.momentum for module in renewed.modules() if isinstance(module, nn.BatchNorm2d)] == [0.1] * 3


def test_scaling_before_the_norm_is_normalised_away() -> None:
    model, data = trained(torch.float64), images(200, torch.float64)
    model.bn1.eps = 1e-12  # what is left of the factors
    report, x = report_of(CLASSES), data[0][:50]

    def repaired(compress: float, where: str) -> Tensor:
        return repair(model, report, compress, where=where, reestimate=data, progress=False).eval()(x).detach()

    unrepaired = repaired(1.0, "before_norm")
    torch.testing.assert_close(repaired(0.3, "before_norm"), unrepaired, rtol=1e-8, atol=1e-8)
    with torch.no_grad():
        kept = repair(model, report, 0.3, where="before_norm").eval()(x)
    assert (kept - model(x)).abs().max() > 0.1, "the factors do nothing anyway"
    assert (repaired(0.3, "after_norm") - repaired(1.0, "after_norm")).abs().max() > 0.1


def test_reestimation_refused_without_norms_behind() -> None:
    with pytest.raises(ValueError, match="no batch norm with running statistics runs behind 'fc4'"):
        repair(trained(), report_of("fr" * 64, "fc4", "fc4"), reestimate=images(20), progress=False)


def test_a_batch_of_one_sample_has_no_variance() -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    data = torch.rand(9, 5), torch.zeros(9)
    report = report_of("frrrrr", "0", "1", "before_norm")
    with pytest.raises(ValueError, match="a batch of reestimate holds one sample"):
        repair(model, report, reestimate=data, batch_size=4, progress=False)
    repair(model, report, reestimate=data, batch_size=4, max_samples=8, progress=False)


def test_an_error_in_reestimation_leaves_the_model_alone() -> None:
    model = trained()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="the model fails on inputs"):
        repair(model, report_of(CLASSES), reestimate=(torch.rand(4, 3, 8, 8), torch.zeros(4)), progress=False)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("compress", [0, -0.5, 1.5, float("nan"), True, "half"])
def test_compress_out_of_range(compress: Any) -> None:
    with pytest.raises(ValueError, match=r"compress.* must be a number in \(0, 1\]"):
        repair(trained(), report_of(CLASSES), compress)


def test_mild_end() -> None:
    assert repair_scales(trained(), report_of(CLASSES), 1).tolist() == [1.0] * 16


@pytest.mark.parametrize(
    ("classes", "counts"), [("r" * 16, "16 are robust, 0 fragile"), ("f" * 8 + "a" * 8, "0 are robust, 8 fragile")]
)
def test_nothing_to_repair(classes: str, counts: str) -> None:
    limit = f"{report_of(classes).threshold():.4g}"
    with pytest.raises(ValueError, match=f"nothing to repair: of 16 neurons of 'conv1', {counts}.*threshold {limit}"):
        repair(trained(), report_of(classes))


def test_fragile_filters_of_zero() -> None:
    model = trained()
    with torch.no_grad():
        model.bn1.weight[places("f")] = 0
    with pytest.raises(ValueError, match="filters of all fragile neurons of 'conv1' are zero"):
        repair(model, report_of(CLASSES))


class Shared(nn.Module):
    """Two layers with the same weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())  # type: ignore[no-any-return]


def test_refusals() -> None:
    model, report = trained(), report_of(CLASSES)
    with pytest.raises(ValueError, match="'relu1' is a ReLU, without weights to scale; choose a convolution"):
        repair(model, report_of(CLASSES, "relu1", "relu1"))
    with pytest.raises(ValueError, match="'relu1' is a ReLU, without weights"):
        repair(model, report_of(CLASSES, "relu1", "bn1"))
    with pytest.raises(ValueError, match="the model has no layer 'conv9'; closest: conv"):
        repair(model, report_of(CLASSES, "conv9", "conv9"))
    with pytest.raises(ValueError, match="of another model: there 'bn2' has 16 neurons, and here 'bn2' has 32"):
        repair(model, report_of(CLASSES, "conv2", "bn2"))
    with pytest.raises(ValueError, match="'conv2' has 32 filters and the norm 'bn1' 16"):
        repair(model, report_of(CLASSES, "conv2", "bn1"))
    with pytest.raises(ValueError, match="call 2 of it cannot be scaled alone"):
        repair(model, report_of(CLASSES, "conv1", "bn1#2"))
    with pytest.raises(ValueError, match="conserve must be one of norm, none, got 'sum'"):
        repair(model, report, conserve="sum")
    with pytest.raises(ValueError, match="where must be one of before_norm, after_norm, got 'behind'"):
        repair(model, report, where="behind")
    with pytest.raises(ValueError, match=r"eps 0\.5 was not measured"):
        repair(model, report, eps=0.5)
    with pytest.raises(TypeError, match="report must be a FragilityReport, got str"):
        repair(model, "report")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got str"):
        repair("model", report)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"scales must be \[16\], one per channel of 'conv1', got shape \[3\]"):
        scale_neurons(model, "conv1", [1, 2, 3])
    with pytest.raises(ValueError, match="scales must be finite"):
        scale_neurons(model, "conv1", torch.full((16,), torch.nan))
    with pytest.raises(ValueError, match="'first' and 'second' share weights"):
        scale_neurons(Shared(), "first", torch.ones(4))
    with pytest.raises(ValueError, match="over several axes"):
        scale_neurons(nn.Sequential(nn.LayerNorm([4, 8, 8])), "0", torch.ones(4))
    with pytest.raises(ValueError, match="'0' is not initialised yet"):
        scale_neurons(nn.Sequential(nn.LazyLinear(4)), "0", torch.ones(4))


class Orthogonal(nn.Module):
    """A parametrization."""

    def forward(self, x: Tensor) -> Tensor:
        return x / x.norm()


def test_computed_weights_are_refused() -> None:
    model: Any = DigitsCNN()
    parametrize.register_parametrization(model.conv1, "weight", Orthogonal())
    with pytest.raises(ValueError, match="'conv1' is computed at each forward"):
        scale_neurons(model, "conv1", torch.ones(16))


def test_a_compiled_model_gives_a_plain_copy() -> None:
    model = trained()
    repaired = repair(torch.compile(model), report_of(CLASSES))  # type: ignore[arg-type]
    assert type(repaired) is DigitsCNN
    expected: Any = repair(model, report_of(CLASSES))
    assert torch.equal(repaired.bn1.weight, expected.bn1.weight)
