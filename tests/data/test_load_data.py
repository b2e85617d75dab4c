"""Data by name: functions of a file, and names that are none."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
import torch

from neurosens_fast.data import data_names, load_data

CODE = """
import random
import torch
from sibling import COUNT
from torch.utils.data import DataLoader, TensorDataset

class Samples:
    classes = ["a", "b", "c"]
    def __len__(self): return COUNT
    def __getitem__(self, index):
        if index >= COUNT: raise IndexError
        return torch.full((2, 3), index / 10), index % 3

class Broken(Samples):
    def __getitem__(self, index): raise OSError("cannot\\nread")

def samples(): return Samples()
def broken(): return Broken()
def pair(): return torch.rand(4, 1, 5), torch.arange(4)
def uneven(): return torch.rand(4, 5), torch.arange(3)
def none(): return torch.rand(0, 5), torch.arange(0)
def loader(): return DataLoader(TensorDataset(*pair()), 2)
def batches(): return [pair(), pair(), pair()]
def generator():
    for _ in range(3): yield pair()
def split(train=True): return torch.zeros(3 if train else 2, 4), torch.zeros(3 if train else 2).long()
def noisy():
    random.random()
    return torch.rand(2, 3), torch.zeros(2).long()
def tensor(): return torch.ones(3)
def number(): return 3
def text(): return "abc"
def mapping(): return {"x": 1}
def empty(): return []
def needs(path): return path
"""


@pytest.fixture
def code(tmp_path: Path) -> str:
    (tmp_path / "code.py").write_text(CODE)
    (tmp_path / "sibling.py").write_text("COUNT = 7")
    return str(tmp_path / "code.py")


@pytest.mark.parametrize(
    ("function", "shape", "classes"),
    [
        ("samples", (2, 3), 3),
        ("pair", (1, 5), None),
        ("loader", None, None),
        ("batches", (1, 5), None),
        ("generator", None, None),
        ("split", (4,), None),
    ],
)
def test_functions_of_a_file(code: str, function: str, shape: tuple[int, ...] | None, classes: int | None) -> None:
    search = list(sys.path)
    source = load_data(f"{code}:{function}")
    assert (source.shape, source.classes) == (shape, classes)
    assert source.description.startswith(f"code.py:{function} (sha256 ")
    assert next(iter(source.dataset)) is not None
    assert sys.path == search
    assert "sibling" not in sys.modules


def test_the_training_split_where_the_function_knows_one(code: str) -> None:
    assert len(load_data(f"{code}:split").dataset[1]) == 2
    train = load_data(f"{code}:split", train=True)
    assert len(train.dataset[1]) == 3
    assert train.description.endswith("), training split")
    with pytest.raises(ValueError, match=r"code.py:pair takes no argument train"):
        load_data(f"{code}:pair", train=True)


def test_random_data_repeat_and_leave_the_random_state(code: str) -> None:
    before = torch.get_rng_state(), random.getstate()
    first, second = (load_data(f"{code}:noisy").dataset[0] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


@pytest.mark.parametrize(
    ("function", "error", "problem"),
    [
        ("tensor", TypeError, "returned an object of type Tensor; it must return a data set"),
        ("number", TypeError, "returned an object of type int; it must"),
        ("text", TypeError, "returned an object of type str; it must"),
        ("mapping", TypeError, "returned an object of type dict; it must"),
        ("empty", ValueError, "returned an empty list"),
        ("uneven", ValueError, r"inputs \[4, 5\] and labels \[3\]; they must be \[N, ...\] and \[N\]"),
        ("none", ValueError, r"inputs \[0, 5\] and labels \[0\]"),
        ("broken", ValueError, "the first sample of .*code.py:broken cannot be read: OSError: cannot read"),
        ("needs", ValueError, "is called without path"),
        ("sample", ValueError, r"no function 'sample'.* did you mean .*samples"),
    ],
)
def test_functions_that_return_no_data(code: str, function: str, error: type[Exception], problem: str) -> None:
    with pytest.raises(error, match=problem) as caught:
        load_data(f"{code}:{function}")
    assert "\n" not in str(caught.value)
    assert f"code.py:{function}" in str(caught.value) or "no function" in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("digit", "unknown data 'digit'; choose one of digits, mnist:DIR, .*FILE.py:FUNCTION; did you mean digits"),
        ("minst:/data", r"did you mean mnist\?"),
        ("", "unknown data ''"),
        ("mnist", "say which folder holds the data: mnist:DIR"),
        ("cifar10:", "say which folder holds the data: cifar10:DIR"),
        ("imagefolder:", "say which folder holds the data: imagefolder:DIR"),
        ("digits:here", "digits takes no folder"),
    ],
)
def test_names_that_are_none(spec: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        load_data(spec)
    assert "\n" not in str(caught.value)


def test_a_data_set_is_no_name() -> None:
    with pytest.raises(TypeError, match="must be named as text, got list; a data set goes to audit"):
        load_data([])  # type: ignore[arg-type]
    assert data_names()[0] == "digits"
