"""Where there is no copy, plain taps do the work, and the reason is given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurosens_fast.attacks.engine import engine as attack_engine
from neurosens_fast.capture import Taps, pair_inputs, paired_forward
from neurosens_fast.folding import FusedTaps, PrivateCopy
from tests.attacks.networks import convolutional, uneven
from tests.capture.networks import TupleTransformer, torchvision_model

from .networks import Branching, build, pair, shape_of
from .test_taps import measured, same_metrics


def refusal(model: nn.Module, layers: Any, benign: Any, adversarial: Any) -> str:
    """The reason; and what was measured is exactly that of plain taps."""
    fused, plain = measured(model, layers, benign, adversarial)
    same_metrics(fused.rows, plain.rows, 0)
    assert (fused.fused, fused.folded, fused.channels_last) == ((), 0, False)
    return fused.reason


def test_a_forward_that_branches_on_data() -> None:
    assert refusal(Branching().double().eval(), "activations", *pair((3, 8, 8))).startswith(
        "torch.fx cannot trace the model (symbolically traced variables cannot be used as inputs to control flow"
    )


def test_a_forward_that_changes_its_module() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.calls = convolutional(torch.float64), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.net(x)

    model = Counting()
    assert refusal(model, "activations", *pair((3, 8, 8))) == "the forward changes attributes of its modules"
    assert model.calls == 3


def test_a_random_forward() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = convolutional(torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(F.dropout(x, 0.5, training=True))

    benign, adversarial = pair((3, 8, 8))
    fused = FusedTaps(Taps(Noisy()), benign)
    assert fused.reason == "the traced copy gives other values: the forward depends on its input, or is random"
    fused.forward(benign, adversarial)
    assert len(fused.rows) == 2


def test_several_inputs() -> None:
    torch.manual_seed(0)
    model = TupleTransformer().double().eval()
    benign = {"inputs_embeds": torch.rand(4, 7, 5).double(), "attention_mask": torch.ones(4, 7).double()}
    adversarial = {**benign, "inputs_embeds": benign["inputs_embeds"] + 0.2}
    plain, fused = Taps(model, "all"), FusedTaps(Taps(model, "all"), benign)
    with plain:
        theirs = paired_forward(model, benign, adversarial)
    assert torch.equal(fused.forward(benign, adversarial)["logits"], theirs["logits"])
    assert fused.reason == "the model takes something else than one tensor of numbers"
    same_metrics(fused.rows, plain.rows, 0)


def test_layers_inside_a_module_with_hooks() -> None:
    model = uneven(torchvision_model("resnet18"))
    model.layer2.register_forward_hook(lambda module, inputs, output: None)
    x = pair((3, 32, 32))
    assert refusal(model, "activations", *x) == "layer 'layer2.0.relu' does not run in the trace as in the model"
    fused, plain = measured(model, ["layer1.*.relu", "relu"], *x)  # nothing inside is tapped
    assert (fused.reason, len(fused.fused), fused.folded) == ("", 5, 15)
    same_metrics(fused.rows, plain.rows, 1e-10)


def test_hooks_on_the_model_or_on_all_modules() -> None:
    model = convolutional(torch.float64)
    model.register_forward_hook(lambda module, inputs, output: None)
    assert refusal(model, "activations", *pair((3, 8, 8))) == "the model itself carries hooks"
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert refusal(convolutional(torch.float64), "activations", *pair((3, 8, 8))) == "hooks on all modules are set"
    finally:
        handle.remove()


def test_compiled_and_parallel_modules() -> None:
    model = convolutional(torch.float64)
    model[2].compile(backend="eager")
    fused, plain = measured(model, "activations", *pair((3, 8, 8)))
    assert (fused.reason, fused.fused, fused.folded) == ("", ("5",), 2)
    same_metrics(fused.rows, plain.rows, 1e-10)
    parallel = nn.DataParallel(convolutional(torch.float64))
    assert refusal(parallel, "activations", *pair((3, 8, 8))).startswith("layer 'module.2' does not run in the trace")


def test_nothing_to_gain() -> None:
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)).double()
    assert refusal(model, "activations", *pair((6,))) == (
        "there is no batch norm to fold, no tapped nn.ReLU and no 2-D convolution on images"
    )


def test_a_batch_norm_over_tokens() -> None:
    torch.manual_seed(0)
    tokens = uneven(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)))
    assert refusal(tokens, "activations", *pair((6, 6))) == (
        "a batch norm normalises another axis than the layer before it puts out"
    )


def test_a_view_of_contiguous_memory_is_run_without_channels_last() -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.head = convolutional(torch.float64)[:6], nn.Linear(72, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            x = self.net(x)
            return self.head(x.view(x.shape[0], -1))

    fused, plain = measured(Viewing(), "activations", *pair((3, 8, 8)))
    assert (fused.reason, fused.channels_last, len(fused.fused), fused.folded) == ("", False, 2, 2)
    same_metrics(fused.rows, plain.rows, 1e-10)


def test_layers_that_cannot_be_tapped_raise_what_plain_taps_raise() -> None:
    class LengthFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.head = nn.Conv1d(2, 5, 1), nn.ReLU(), nn.Linear(9, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return self.head(self.relu(x.transpose(0, 1).contiguous() + 0).mean(0)) + self.relu(x + 0).mean(2)

    model, (benign, adversarial) = LengthFirst().double(), pair((2, 9))
    plain, fused = Taps(model), FusedTaps(Taps(model), benign)
    plain.pairs = 3
    with plain:
        paired_forward(model, benign, adversarial)
    fused.forward(benign, adversarial)
    assert (fused.reason, fused.fused) == ("", ("relu#2",))
    assert fused.taps.skipped == plain.skipped == {"relu": plain.skipped["relu"]}
    assert "puts out 5 rows for 3 pairs (6 expected)" in plain.skipped["relu"]
    same_metrics(fused.rows, plain.rows, 1e-10)
    named = FusedTaps(Taps(model, ["relu"]), benign)
    assert named.reason.startswith("the model or a tap fails (layer 'relu' puts out 5 rows for 2 pairs (4 expected)")
    with pytest.raises(ValueError, match=r"layer 'relu' puts out 5 rows for 3 pairs \(6 expected\)"):
        named.forward(benign, adversarial)


def test_rows_that_are_skipped_are_neither_measured_nor_lost_to_the_model() -> None:
    model = uneven(build("digits"))
    benign, adversarial = pair(shape_of("digits"))
    fused = FusedTaps(Taps(model), benign)
    fused.taps.skip("relu2", "relu2", ValueError("no"))
    plain = Taps(model)
    with plain:
        expected = paired_forward(model, benign, adversarial)
    torch.testing.assert_close(fused.forward(benign, adversarial), expected, rtol=1e-10, atol=1e-10)
    assert list(fused.rows) == list(fused.fused) == ["relu1", "relu3", "relu4"]
    same_metrics(fused.rows, {name: row for name, row in plain.rows.items() if name != "relu2"}, 1e-10)


def test_a_batch_of_another_kind_goes_through_the_model() -> None:
    model = uneven(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.LayerNorm(9)))
    benign, adversarial = pair((6,))
    fused, plain = FusedTaps(Taps(model, "activations", {"1": -1}), benign), Taps(model, "activations", {"1": -1})
    for x, x_adv in ((benign, adversarial), pair((4, 6))):
        fused.forward(x, x_adv)
        with plain:
            paired_forward(model, x, x_adv)
    assert fused.fused == ("1",)
    assert fused.rows["1"].statistics.samples == 6
    same_metrics(fused.rows, plain.rows, 1e-10)


def test_a_model_that_changes_between_batches() -> None:
    model = uneven(build("digits"))
    benign, adversarial = pair(shape_of("digits"))
    fused, plain = FusedTaps(Taps(model), benign), Taps(model)

    def both() -> None:
        fused.forward(benign, adversarial)
        with plain:
            paired_forward(model, benign, adversarial)
        same_metrics(fused.rows, plain.rows, 1e-10)

    both()
    model.train()
    with torch.no_grad():
        model(benign)  # running statistics move, as under some attacks
        model.fc4.weight.mul_(1.5)
        both()
    assert fused.reason == ""
    model.relu1.register_forward_hook(lambda module, inputs, output: output + 1)
    both()
    assert (fused.reason, fused.fused) == ("the model changed while it was measured", ())


def test_attacks_and_audits_share_the_rule_for_channels_last() -> None:
    grey = convolutional(torch.float64)
    grey[0] = nn.Conv2d(1, 6, 3, padding=1).double()
    flat = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU()).double().eval()
    cases = ((convolutional(torch.float64), (3, 8, 8)), (grey, (1, 8, 8)), (flat, (8,)))
    for model, shape in cases:
        benign, _ = pair(shape)
        engine = attack_engine.Engine(model, attack_engine.Switches(**_SWITCHES), "test")
        engine.begin(benign, 10, True)
        fused = FusedTaps(Taps(model), benign)
        assert fused.reason == ""
        assert fused.channels_last == (engine.memory_format == torch.channels_last) == (model is not flat)


def test_all_activations_of_grey_images_lie_in_channels_last_memory() -> None:
    model = nn.Sequential(nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3)).eval()
    copied = PrivateCopy(model, fold=True, channels_last=True, dtype=None)
    copied.refresh()
    x = torch.rand(2, 1, 8, 8)
    first = next(iter(copied.module.children()))
    assert first(x).is_contiguous(memory_format=torch.channels_last)
    assert copied.run(x).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(copied.run(x), model(x))


_SWITCHES: Any = {"exact": False, "fold": True, "channels_last": True, "winograd": False, "dtype": None,
                  "compaction": False, "graph": False}  # fmt: skip


def test_pairs_in_channels_last_memory() -> None:
    benign, adversarial = pair((3, 4, 5))
    joined = pair_inputs(benign.requires_grad_(), adversarial, torch.channels_last)
    assert isinstance(joined, Tensor)
    assert joined.is_contiguous(memory_format=torch.channels_last)
    assert not joined.is_contiguous()
    assert torch.equal(joined, torch.cat((benign, adversarial)))
