"""Square: finds what a hidden gradient hides, asks no more about who fell, and draws what its authors say."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.attacks import PGD, Square

from .networks import Counted, blobs, distances, trained


class Quantised(nn.Module):
    """Rounds its input to eighths: a step function, whose gradient is zero everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.net = trained()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(torch.round(x * 8) / 8)


def standing(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1) == y


def test_it_shows_a_hidden_gradient() -> None:
    model, (x, _) = Quantised(), blobs(30)
    y = model(x).argmax(1)
    hidden = PGD(model, 0.12, 0.02, 20, random_start=False)(x, y)
    assert standing(model, hidden, y).all()
    found = Square(model, 0.12, 400, seed=0)(x, y)
    assert standing(model, found, y).sum() <= 6
    assert (distances(found, x, "linf") <= 0.12).all()


def test_more_queries_find_more() -> None:
    model, (x, y) = trained(), blobs(60)
    left = [int(standing(model, Square(model, 0.06, n, seed=1)(x, y), y).sum()) for n in (1, 30, 400)]
    pgd = int(standing(model, PGD(model, 0.06, 0.01, 20, seed=1)(x, y), y).sum())
    assert left[0] > left[1] > left[2] > 0
    assert left[2] <= pgd + 8


def test_queries_end_with_the_fall_of_a_sample() -> None:
    base, (x, y) = trained(), blobs(30)
    model = Counted(base)
    result = Square(model, 0.1, 50, seed=0)(x, y)
    left = int(standing(base, result, y).sum())
    counts = list(Counted.forwards)
    assert 0 < left < 25
    assert counts[0] == 30
    assert counts == sorted(counts, reverse=True)
    assert len(counts) == 50, "some stand to the end"
    assert counts[-1] >= left
    Counted.forwards.clear()
    wrong = (base(x).argmax(1) + 1) % 3
    assert Square(model, 0.02, 50, seed=0)(x, wrong).shape == x.shape
    assert len(Counted.forwards) < 50, "the attack ends with the last of them"


def test_the_start_is_stripes_and_the_steps_are_squares() -> None:
    """On a model that never falls, and whose margin falls with every change that is kept."""
    seen: list[Tensor] = []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.clone())
            return torch.stack([x.new_full((len(x),), 1000.0) - len(seen), x.mean((1, 2, 3))], 1)

    x = torch.full((2, 3, 20, 20), 0.5, dtype=torch.float64)
    n_queries, eps, p_init = 300, 0.1, 0.8
    Square(Watched(), eps, n_queries, p_init, seed=0, exact=True)(x, torch.zeros(2, dtype=torch.int64))
    assert len(seen) == n_queries
    change = seen[0] - x
    assert torch.allclose(change.abs(), torch.tensor(eps, dtype=torch.float64))
    assert torch.equal(change, change[:, :, :1].expand_as(change)), "each column has one sign per channel"
    assert len({tuple(map(tuple, row.tolist())) for row in change[:, :, 0].sign()}) == 2, "each sample its own"
    tallest: dict[int, int] = {}
    for query in range(1, n_queries):
        moved = seen[query] != seen[query - 1]
        for sample in range(2):
            area = moved[sample].any(0)
            if not area.any():
                continue  # all signs were there already
            rows, columns = area.any(1).nonzero()[:, 0], area.any(0).nonzero()[:, 0]
            share = p_init / 2 ** sum(
                query / n_queries * 10_000 > bound for bound in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
            )
            side = min(max(round(math.sqrt(share * 400)), 1), 20)
            assert rows.max() - rows.min() < side
            assert columns.max() - columns.min() < side
            tallest[side] = max(tallest.get(side, 0), int(rows.max() - rows.min()) + 1)
            step = (seen[query] - x)[sample]
            assert torch.allclose(step.abs(), torch.tensor(eps, dtype=torch.float64))
    assert len(tallest) >= 6
    assert all(height == side for side, height in tallest.items()), tallest


@pytest.mark.parametrize("shape", [(3, 4, 4), (4, 12), (48,)])
def test_shapes(shape: tuple[int, ...]) -> None:
    class Reshaped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = trained()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.reshape(-1, 3, 4, 4))

    model, (x, y) = Reshaped(), blobs(20)
    x = x.view(20, *shape)
    result = Square(model, 0.15, 100, seed=0)(x, y)
    assert result.shape == x.shape
    assert standing(model, result, y).sum() < 10
    assert (distances(result, x, "linf") <= 0.15).all()


def test_refusals() -> None:
    model: Any = nn.Flatten()
    with pytest.raises(ValueError, match=r"works on \[N, C, H, W\], \[N, H, W\] or \[N, F\], got \[2, 1, 2, 2, 2\]"):
        Square(model)(torch.rand(2, 1, 2, 2, 2), torch.zeros(2, dtype=torch.int64))
    for p_init in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"p_init is a share of the pixels and must lie in \(0, 1\]"):
            Square(model, p_init=p_init)
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.7"):
        Square(model)(torch.rand(2, 8), torch.tensor([0, 9]))
