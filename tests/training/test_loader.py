"""Batches of training data: who gets which sample, and how images are moved."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from neurosens_fast.training import DeviceLoader, held_out
from neurosens_fast.training.loader import Moves, loader_of


def numbered(count: int = 23) -> tuple[Tensor, Tensor]:
    images = torch.arange(count).float()[:, None, None, None].expand(count, 2, 5, 4).clone()
    return images, torch.arange(count)


def test_every_sample_once_per_epoch_and_another_order_each_time(device: str) -> None:
    images, labels = numbered()
    loader = DeviceLoader(images, labels, 5, device)
    assert len(loader) == 5
    orders = []
    for _ in range(2):
        found = list(loader)
        assert [len(batch) for _, batch in found] == [5, 5, 5, 5, 3]
        for inputs, batch in found:
            assert inputs.device.type == device
            assert torch.equal(inputs[:, 0, 0, 0].long(), batch)
        orders.append(torch.cat([batch for _, batch in found]).tolist())
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(23))
    assert orders[0] != orders[1]
    loader.set_epoch(0)
    assert torch.cat([batch for _, batch in loader]).tolist() == orders[0]
    other = DeviceLoader(images, labels, 5, device, seed=1)
    assert torch.cat([batch for _, batch in other]).tolist() != orders[0]
    assert torch.cat([batch for _, batch in DeviceLoader(images, labels, 5, device, shuffle=False)]).tolist() == [
        *range(23)
    ]


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_every_batch(world: int) -> None:
    images, labels = numbered()
    alone = list(DeviceLoader(images, labels, 6).batches(4))
    shares = [list(DeviceLoader(images, labels, 6, rank=rank, world=world).batches(4)) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    assert len(shares[0]) == len(DeviceLoader(images, labels, 6, rank=0, world=world))
    for number, parts in enumerate(zip(*shares, strict=True)):
        assert len({len(index) for _, _, index in parts}) == 1  # equal shares
        joined = torch.cat([index for _, _, index in parts])
        assert torch.equal(joined, alone[number][2][: len(joined)])
        assert len(alone[number][2]) - len(joined) < world


def slow_move(image: Tensor, crop: int, down: int, right: int, mirrored: bool) -> Tensor:
    padded = torch.nn.functional.pad(image, (crop,) * 4)
    cut = padded[:, down : down + image.shape[1], right : right + image.shape[2]]
    return cut.flip(2) if mirrored else cut


@pytest.mark.parametrize(("crop", "flip"), [(2, False), (0, True), (3, True)])
def test_moves_equal_slow_ones(crop: int, flip: bool, device: str) -> None:
    images = torch.rand(9, 2, 5, 4)
    moves = Moves.drawn(9, crop, flip, torch.Generator().manual_seed(1))
    again = torch.Generator().manual_seed(1)
    offsets = torch.randint(2 * crop + 1, (9, 2), generator=again) if crop else torch.zeros(9, 2).long()
    mirrored = torch.rand(9, generator=again) < 0.5 if flip else torch.zeros(9).bool()
    index = torch.tensor([7, 0, 3, 3])
    found = moves.applied(images.to(device), index.to(device), index).cpu()
    for row, sample in enumerate(index.tolist()):
        down, right = offsets[sample].tolist()
        expected = slow_move(images[sample], crop, down, right, bool(mirrored[sample]))
        assert torch.equal(found[row], expected)


def test_moves_do_not_depend_on_batch_size() -> None:
    images, labels = torch.rand(12, 3, 6, 6), torch.arange(12)
    found = []
    for size in (3, 12):
        batches = list(DeviceLoader(images, labels, size, crop=2, flip=True).batches(1))
        index = torch.cat([batch[2] for batch in batches])
        found.append(torch.cat([batch[0] for batch in batches])[index.argsort()])
    assert torch.equal(*found)
    assert not torch.equal(found[0], images)


@pytest.mark.parametrize("kind", ["tensors", "TensorDataset", "data set", "DataLoader", "batches"])
def test_kinds_of_data(kind: str) -> None:
    images, labels = numbered(10)
    pairs: Any = TensorDataset(images, labels)
    data = {
        "tensors": (images, labels),
        "TensorDataset": pairs,
        "data set": torch.utils.data.Subset(pairs, range(10)),
        "DataLoader": DataLoader(pairs, batch_size=4, shuffle=True, generator=torch.Generator()),
        "batches": list(zip(images.split(4), labels.split(4), strict=True)),
    }[kind]
    loader = loader_of(data, 4, torch.device("cpu"), seed=3)
    assert len(loader) == 3
    epochs = [torch.cat([batch[1] for batch in loader.batches(epoch)]).tolist() for epoch in (1, 2, 1)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] == epochs[2]
    assert (epochs[0] != epochs[1]) == (kind != "batches")


def test_held_out() -> None:
    (train, train_labels), (val, val_labels) = held_out(*numbered(20), share=0.25, seed=2)
    assert len(val) == 5
    assert sorted([*train_labels.tolist(), *val_labels.tolist()]) == list(range(20))
    assert torch.equal(val[:, 0, 0, 0].long(), val_labels)
    assert torch.equal(train[:, 0, 0, 0].long(), train_labels)
    for share in (0, 1, -0.1):
        with pytest.raises(ValueError, match="share must lie between 0 and 1"):
            held_out(*numbered(20), share=share)


def test_bad_input() -> None:
    images, labels = numbered(6)
    with pytest.raises(ValueError, match=r"must be \[N, ...\] and \[N\]"):
        DeviceLoader(images, labels[:4])
    with pytest.raises(ValueError, match="crop and flip need images"):
        DeviceLoader(images.flatten(1), labels, crop=2)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        DeviceLoader(images, labels, 0)
    with pytest.raises(TypeError, match="train must be two tensors, a data set, or an iterable"):
        loader_of(3, 4, None)
    with pytest.raises(TypeError, match="does not tell its length"):
        len(loader_of(iter([(images, labels)]), 4, None))
    with pytest.raises(ValueError, match=r"images \[6, 2, 5, 4\] and labels \[4\]"):
        list(loader_of([(images, labels[:4])], 4, None).batches(1))
    with pytest.raises(TypeError, match="must give batches"):
        list(loader_of([images], 4, None).batches(1))
