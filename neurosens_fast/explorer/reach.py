"""Which input pixels can reach each element of a tensor: intervals of rows and columns, carried through layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_FAR = 2**31
_NONE = torch.tensor([_FAR, -_FAR])  # the interval that leaves every other as it is in a union


class UnknownGeometry(Exception):
    """Why the pixels that reach a tensor are not known."""


@dataclass(frozen=True)
class Grid:
    """Of a tensor ``[N, C, h, w]``: pixels of every row ``[h, 2]`` and column ``[w, 2]``, begin and exclusive end.

    They are the same for all channels. Where nothing reaches, the begin is not below the end.
    """

    rows: Tensor
    columns: Tensor

    def boxes(self) -> Tensor:
        """``[h * w, 4]``: top, left, bottom, right of every position, row by row."""
        high, wide = len(self.rows), len(self.columns)
        rows = self.rows[:, None].expand(high, wide, 2).reshape(-1, 2)
        columns = self.columns[None].expand(high, wide, 2).reshape(-1, 2)
        return torch.stack([rows[:, 0], columns[:, 0], rows[:, 1], columns[:, 1]], 1)

    def everything(self) -> Grid:
        """A grid of one position that everything reaches."""
        return Grid(joined(self.rows), joined(self.columns))

    def is_uniform(self) -> bool:
        """Whether the same pixels reach all positions."""
        return bool((self.rows == self.rows[:1]).all() and (self.columns == self.columns[:1]).all())


@dataclass(frozen=True)
class Flat:
    """Of a tensor ``[N, F]``: the ``boxes`` ``[F, 4]`` of pixels, top, left, bottom, right."""

    boxes: Tensor


Reach = Grid | Flat


def image(height: int, width: int) -> Grid:
    """The pixels themselves."""

    def every(count: int) -> Tensor:
        return torch.stack([torch.arange(count), torch.arange(count) + 1], 1)

    return Grid(every(height), every(width))


def joined(intervals: Tensor) -> Tensor:
    """The union ``[1, 2]`` of ``[n, 2]``."""
    return torch.stack([intervals[:, 0].amin(), intervals[:, 1].amax()])[None]


def joined_boxes(boxes: Tensor) -> Tensor:
    """The union ``[1, 4]`` of ``[n, 4]``."""
    return torch.cat([boxes[:, :2].amin(0), boxes[:, 2:].amax(0)])[None]


def clean_boxes(boxes: Tensor) -> Tensor:
    """``boxes`` with zeros in the place of those that nothing reaches."""
    empty = (boxes[:, 2:] <= boxes[:, :2]).any(1)
    return torch.where(empty[:, None], 0, boxes)


def empty_boxes(count: int) -> Tensor:
    """``count`` boxes that nothing reaches."""
    return _NONE.repeat_interleave(2).repeat(count, 1)


def windows(
    intervals: Tensor, out: int, kernel: int, stride: int, padding: int, dilation: int = 1, mode: str = "zeros"
) -> Tensor:
    """Intervals ``[out, 2]`` of a window that slides over ``intervals`` ``[n, 2]``; ``mode`` is that of the padding."""
    count = len(intervals)
    index = torch.arange(out)[:, None] * stride - padding + dilation * torch.arange(kernel)[None]
    if mode == "circular":
        index = index % count
    elif mode == "replicate":
        index = index.clamp(0, count - 1)
    elif mode == "reflect":
        index = index.abs()
        index = torch.where(index >= count, 2 * (count - 1) - index, index)
    elif mode not in ("zeros", "constant"):
        raise UnknownGeometry(f"padding mode {mode!r}")
    return _union(intervals, index, (index >= 0) & (index < count))


def adaptive_windows(intervals: Tensor, out: int) -> Tensor:
    """The same for adaptive pooling to ``out`` positions."""
    count = len(intervals)
    place = torch.arange(out)
    begin, end = place * count // out, -(-(place + 1) * count // out)
    index = begin[:, None] + torch.arange(int((end - begin).max()))[None]
    return _union(intervals, index, index < end[:, None])


def nearest(intervals: Tensor, out: int, scale: float | None) -> Tensor:
    """The same for enlargement by the nearest neighbour, as torch takes it."""
    places = torch.arange(len(intervals), dtype=torch.float32)[None, None]
    if scale is None:
        index = functional.interpolate(places, size=out, mode="nearest")
    else:
        index = functional.interpolate(places, scale_factor=scale, mode="nearest")
    return intervals[index[0, 0].long()]


def united(parts: Sequence[Reach], shape: Sequence[int]) -> Reach:
    """The reach of a tensor of ``shape`` made element by element of several, which are broadcast."""
    if len(shape) == 4 and all(isinstance(part, Grid) for part in parts):
        grids = [part for part in parts if isinstance(part, Grid)]
        rows = _united([grid.rows for grid in grids], shape[2])
        return Grid(rows, _united([grid.columns for grid in grids], shape[3]))
    if len(shape) == 2 and all(isinstance(part, Flat) for part in parts):
        boxes = [part.boxes.expand(shape[1], 4) for part in parts if isinstance(part, Flat)]
        together = torch.stack(boxes)
        return Flat(torch.cat([together[..., :2].amin(0), together[..., 2:].amax(0)], 1))
    raise UnknownGeometry("tensors of different kinds are combined")


def reshaped(part: Reach, before: Sequence[int], after: Sequence[int]) -> Reach:
    """The reach of a tensor of shape ``after`` that has the elements of one of shape ``before`` in the same order."""
    before, after = tuple(before), tuple(after)
    if before == after:
        return part
    if before[0] == after[0]:
        if isinstance(part, Grid) and len(after) == 2:
            return Flat(part.boxes().repeat(before[1], 1))
        if isinstance(part, Flat) and len(after) == 4 and bool((part.boxes == part.boxes[:1]).all()):
            top, left, bottom, right = part.boxes[0]
            rows, columns = torch.stack([top, bottom])[None], torch.stack([left, right])[None]
            return Grid(rows.repeat(after[2], 1), columns.repeat(after[3], 1))
        if isinstance(part, Grid) and len(after) == 4 and part.is_uniform():
            return Grid(part.rows[:1].repeat(after[2], 1), part.columns[:1].repeat(after[3], 1))
    raise UnknownGeometry(f"a tensor {list(before)} is reshaped to {list(after)}")


def _united(intervals: Sequence[Tensor], count: int) -> Tensor:
    together = torch.stack([part.expand(count, 2) for part in intervals])
    return torch.stack([together[..., 0].amin(0), together[..., 1].amax(0)], 1)


def _union(intervals: Tensor, index: Tensor, valid: Tensor) -> Tensor:
    """The union over the last axis of ``intervals[index]`` where ``valid``."""
    read = intervals[index.clamp(0, len(intervals) - 1)]
    read = torch.where(valid[..., None], read, _NONE)
    return torch.stack([read[..., 0].amin(1), read[..., 1].amax(1)], 1)
