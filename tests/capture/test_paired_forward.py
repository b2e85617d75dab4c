"""The paired forward: structure of inputs, modes, and no trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.capture import evaluation_mode, pair_inputs, paired_forward


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm: Any = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.9)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return self.drop(self.norm(tokens)) * mask


def test_tuple_and_dict_equal_two_passes() -> None:
    model = TwoInputs()
    model.norm.running_mean.fill_(0.3)
    mask = torch.tensor([[1.0, 0, 1], [1, 1, 0]])
    benign, adversarial = (torch.rand(2, 3), mask), (torch.rand(2, 3), mask)
    named = [dict(zip(("tokens", "mask"), inputs, strict=True)) for inputs in (benign, adversarial)]
    reordered = {"mask": named[1]["mask"], "tokens": named[1]["tokens"]}
    with evaluation_mode(model), torch.no_grad():
        expected = torch.cat((model(*benign), model(*adversarial)))
    assert torch.equal(paired_forward(model, benign, adversarial), expected)
    assert torch.equal(paired_forward(model, named[0], reordered), expected)


def test_modes_come_back_per_module_and_statistics_stay() -> None:
    model = TwoInputs().train()
    model.norm.eval()
    mean = model.norm.running_mean.clone()
    output = paired_forward(model, (torch.rand(2, 3), torch.ones(2, 3)), (torch.rand(2, 3), torch.ones(2, 3)))
    assert not output.requires_grad
    assert not output.is_inference(), "tensors cached by a model must stay usable in training"
    with pytest.raises(RuntimeError):
        paired_forward(model, (torch.rand(2, 4), torch.ones(2, 3)), (torch.rand(2, 4), torch.ones(2, 3)))
    assert [module.training for module in model.modules()] == [True, False, True]
    assert torch.equal(model.norm.running_mean, mean)


def test_modes_are_set_without_calling_the_users_train() -> None:
    class Loud(nn.Linear):
        def train(self, mode: bool = True) -> Loud:
            raise AssertionError("train() has side effects in some packages")

    model = nn.Sequential(Loud(2, 2))
    with evaluation_mode(model):
        assert not model[0].training
    assert model[0].training


@pytest.mark.parametrize(
    ("benign", "adversarial", "message"),
    [
        (torch.rand(2, 3), torch.rand(2, 4), r"differ in shape: \[2, 3\] and \[2, 4\]"),
        (torch.rand(2, 3), torch.rand(2, 3).double(), "differ in dtype"),
        (torch.rand(2, 3), torch.rand(2, 3, device="meta"), "differ in device"),
        ({"a": torch.rand(2)}, {"b": torch.rand(2)}, "same keys"),
        ((torch.rand(2),), (torch.rand(2), torch.rand(2)), "1 tensors, adversarial inputs 2"),
    ],
)
def test_pairs_that_do_not_match(benign: object, adversarial: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pair_inputs(benign, adversarial)  # type: ignore[arg-type]


def test_inputs_that_are_no_tensors() -> None:
    with pytest.raises(TypeError, match="must be a tensor, a tuple or a dict of tensors, got ndarray"):
        pair_inputs(torch.rand(2).numpy(), torch.rand(2).numpy())  # type: ignore[arg-type]
