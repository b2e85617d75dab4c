"""The inputs that stimulate each neuron most, found while samples stream by."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class TopInputs:
    """The ``top`` inputs with the largest value of each of C neurons, of samples that are seen once, in their order.

    Ties go to the lowest sample number, so that the result does not depend on how samples come in batches; NaN and -inf
    are never among the top. ``pictures`` maps a sample that is now among the top of some neuron to its input on the
    CPU: uint8 where all its values lie in [0, 1] (255 times them, rounded), otherwise float16, whose steps are finer
    than the 256 shades of a picture, unless its values are too large for that. Those of samples below ``first_kept``,
    which someone else keeps, are left out. No more than ``C * top`` are ever held.
    """

    def __init__(self, neurons: int, top: int, device: torch.device | str = "cpu", first_kept: int = 0) -> None:
        self.pictures: dict[int, Tensor] = {}
        self._first_kept = first_kept
        self._shape: torch.Size | None = None
        shape = (neurons, top)
        self._values = torch.full(shape, -torch.inf, dtype=torch.float64, device=device)
        self._samples = torch.full(shape, -1, device=device)
        self._positions = torch.full(shape, -1, device=device)

    @property
    def values(self) -> NDArray[np.float32]:
        """Values ``[C, top]`` in falling order, NaN where there are fewer samples."""
        found = torch.where(self._samples < 0, torch.nan, self._values)
        return found.float().cpu().numpy()

    @property
    def samples(self) -> NDArray[np.int64]:
        """The samples' numbers in the data, ``[C, top]``; -1 where there are fewer."""
        return self._samples.cpu().numpy()

    @property
    def positions(self) -> NDArray[np.int64]:
        """Where in its map, flattened, the neuron is largest for each of them, ``[C, top]``; -1 without a map."""
        return self._positions.cpu().numpy()

    def update(self, values: Tensor, first: int, whole: Tensor | None = None, inputs: Tensor | None = None) -> None:
        """Add a batch with ``values`` ``[N, C]``, the maps ``whole`` ``[N, C, *S]`` they are of, and ``inputs``.

        ``first`` is the number of its first sample, above those of all samples seen before.
        """
        top = self._values.shape[1]
        found = values.to(self._values).nan_to_num(-torch.inf, torch.inf, -torch.inf).T  # [C, N]
        # a tie with the last of the top goes to the earlier sample, and most neurons soon see nothing new
        if inputs is not None and self._shape is None:
            self._shape = inputs.shape[1:]
        rows = (found > self._values[:, -1:]).any(1).nonzero().flatten()
        if not len(rows):
            return
        found = found[rows]
        numbers = torch.arange(first, first + len(values), device=found.device)
        places = torch.full_like(found, -1, dtype=torch.int64)
        if whole is not None:
            places = whole[:, rows.to(whole.device)].flatten(2).argmax(2).T.to(found.device)
        candidates = (
            (self._values, found),
            (self._samples, torch.where(found > -torch.inf, numbers, -1)),
            (self._positions, places),
        )
        joined = [torch.cat((kept[rows], new), 1) for kept, new in candidates]
        order = joined[0].sort(dim=1, descending=True, stable=True).indices[:, :top]
        for (kept, _), both in zip(candidates, joined, strict=True):
            kept[rows] = both.gather(1, order)
        self._positions.masked_fill_(self._samples < 0, -1)
        if inputs is not None and inputs.shape[1:] == self._shape:  # pictures of one size stand side by side
            self._keep(inputs, first)

    def _keep(self, inputs: Tensor, first: int) -> None:
        wanted = set(self._samples.unique().tolist())
        self.pictures = {sample: picture for sample, picture in self.pictures.items() if sample in wanted}
        for sample in sorted(wanted):
            if sample >= max(first, self._first_kept):
                self.pictures[sample] = _as_picture(inputs[sample - first])


def _as_picture(given: Tensor) -> Tensor:
    """A copy on the CPU, not a view, which would hold the whole batch."""
    given = given.detach()
    if given.is_floating_point() and bool(((given >= 0) & (given <= 1)).all()):
        given = (given.float() * 255).round().to(torch.uint8)
    elif given.is_floating_point() and bool((given.abs() <= torch.finfo(torch.float16).max).all()):
        given = given.half()
    return given.to("cpu", copy=True)
