"""Exact receptive fields: the box of input pixels that can reach a position of a map, or a neuron without one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neurosens_fast.audit.masking.hooks import split_row
from neurosens_fast.capture import untouched
from neurosens_fast.folding.trace import NotTraced, trace
from neurosens_fast.support.messages import one_line

from .masks import pixel_gradient
from .neuron_layer import NeuronLayer, read
from .reach import Flat, Grid, Reach, UnknownGeometry, clean_boxes, joined_boxes
from .reach_trace import ReachTrace

BY_GEOMETRY = "exact receptive fields, from the kernels, strides and paddings of the layers"
BY_GRADIENT = (
    "boxes around all pixels whose gradient at the position is not zero in one of {draws} images, all but one of them "
    "random, since the layers do not tell ({reason})"
)
_DRAWS = 16
_AT_ONCE = 4  # images whose graph is held
_MOST_POSITIONS = 64  # of a map, whose gradients are taken one by one


@dataclass(frozen=True)
class ReceptiveFields:
    """``boxes`` ``[P, 4]`` int64 of pixels: top, left, bottom, right, the last two exclusive; zeros where none reaches.

    ``shape`` is that of the map whose P positions they are for, row by row; None where they are for P neurons.
    """

    boxes: Tensor
    shape: tuple[int, int] | None

    def of_neurons(self) -> Tensor:
        """For neurons of a map, the box ``[1, 4]`` that all of them read; else ``boxes``."""
        if self.shape is None:
            return self.boxes
        some = self.boxes[(self.boxes[:, 2:] > self.boxes[:, :2]).all(1)]
        return joined_boxes(some) if len(some) else self.boxes[:1]


def geometry(model: nn.Module, layer: NeuronLayer, sample: Tensor) -> tuple[ReceptiveFields | None, str]:
    """Receptive fields by the kernels, strides, paddings and dilations of the layers; or None and the reason.

    ``sample`` ``[N, B, H, W]`` are images, of which one is looked at; H and W matter. A private trace by torch.fx
    is followed: convolutions, pooling (adaptive too), norms, element by element operations, concatenation, flattening,
    means and linear layers are known. Of layers that are added or concatenated it is the box around both. Neurons
    without a map have the box of all that they read. The model is afterwards as it was.
    """
    if sample.dim() != 4:
        return None, f"inputs {list(sample.shape)} are no images [N, B, H, W]"
    row = layer.map_row or layer.row
    try:
        with untouched(model), torch.no_grad():
            found, before = _traced(model, row, sample[:1].detach())
    except (NotTraced, UnknownGeometry) as error:
        return None, one_line(error, 160)
    if layer.map_row is not None:
        if not isinstance(found, Grid) or layer.map_axis != 1:
            return None, f"{row!r} puts out no map [N, C, H, W]"
        return ReceptiveFields(clean_boxes(found.boxes()), (len(found.rows), len(found.columns))), ""
    values = before if layer.input else found
    if isinstance(values, Grid):
        return ReceptiveFields(clean_boxes(values.everything().boxes()).repeat(layer.channels, 1), None), ""
    if not isinstance(values, Flat) or len(values.boxes) != layer.channels:
        return None, f"what {row!r} reads is not known"
    return ReceptiveFields(clean_boxes(values.boxes), None), ""


def by_gradient(
    model: nn.Module,
    layer: NeuronLayer,
    sample: Tensor,
    positions: Sequence[int] | None = None,
    draws: int = _DRAWS,
    seed: int = 0,
) -> Tensor:
    """Boxes ``[P, 4]`` around the pixels with a gradient other than zero of each of ``positions`` of the map.

    ``positions`` are flat, row by row; None means the neurons' values, all together, and gives one box. It is the
    gradient of the sum over channels with random factors, at ``sample``'s first image and at ``draws`` images of
    uniform noise between its extremes, so that a ReLU that is off in one or a maximum elsewhere does not hide a
    pixel. A box can be too small where a pixel matters in none of them, never too large. Raises ``ValueError`` for
    positions without a map and for a model whose output has no gradient.
    """
    if positions is not None and layer.map_row is None:
        raise ValueError(f"the neurons of {layer.name!r} have no map; leave positions out")
    if sample.dim() != 4 or not sample.is_floating_point():
        raise ValueError(f"sample must be floating-point images [N, B, H, W], got {sample.dtype} {list(sample.shape)}")
    generator = torch.Generator().manual_seed(seed)
    image = sample[:1].detach()
    low, high = image.amin(), image.amax()
    high = high if high > low else low + 1
    noise = torch.rand((draws, *image.shape[1:]), generator=generator).to(image)
    images = torch.cat([image, low + (high - low) * noise])
    places = [0] if positions is None else list(positions)
    reached = torch.zeros((len(places), *image.shape[2:]), dtype=torch.bool, device=image.device)
    with untouched(model):
        for few in images.split(_AT_ONCE):
            leaf = few.clone().requires_grad_()
            # a copy, since the first layer may work in place
            reading = read(model, layer, leaf.clone(), gradient=True)
            whole = reading.values[:, :, None] if positions is None or reading.map is None else reading.map.flatten(2)
            factors = torch.randn(whole.shape[:2], generator=generator).to(whole)
            for number, position in enumerate(places):
                more = number < len(places) - 1
                gradient = pixel_gradient(layer, whole[:, :, position] * factors, leaf, keep=more)
                reached[number] |= (gradient != 0).flatten(0, 1).any(0)
    return torch.tensor([_box(pixels) for pixels in reached], dtype=torch.int64).view(-1, 4)


def patches(
    model: nn.Module, layer: NeuronLayer, sample: Tensor, positions: NDArray[np.int64], seed: int = 0
) -> tuple[NDArray[np.int64], str]:
    """The boxes ``[C, m, 4]`` int64 of the ``positions`` ``[C, m]`` of a map, and a sentence on how they were found.

    By :func:`geometry` where that knows all layers, else :func:`by_gradient`. A position of -1 has a box of zeros;
    without a map all of a neuron's boxes are the pixels that it reads.
    """
    if positions.ndim != 2 or len(positions) != layer.channels:
        raise ValueError(f"positions must be [C, m] with C {layer.channels}, got {list(positions.shape)}")
    fields, reason = geometry(model, layer, sample)
    how = BY_GEOMETRY if fields is not None else BY_GRADIENT.format(draws=_DRAWS + 1, reason=reason)
    if layer.map_row is None:
        boxes = fields.boxes if fields is not None else by_gradient(model, layer, sample, seed=seed)
        return np.broadcast_to(boxes.numpy()[:, None], (*positions.shape, 4)).copy(), how
    wanted, place = np.unique(positions, return_inverse=True)
    known = wanted[wanted >= 0]
    table = np.zeros((len(wanted), 4), np.int64)
    if fields is not None:
        if len(known) and known[-1] >= len(fields.boxes):
            raise ValueError(f"position {known[-1]} was given, and the map has {len(fields.boxes)}")
        table[wanted >= 0] = fields.boxes.numpy()[known]
    elif len(known):
        ends = by_gradient(model, layer, sample, [int(known[0]), int(known[-1])], seed=seed)
        if bool((ends == torch.tensor([0, 0, *sample.shape[2:]])).all()):
            table[wanted >= 0] = ends[0].numpy()
            how += "; the first and the last position see the whole image, and the others are taken to"
        elif len(known) > _MOST_POSITIONS:
            how = f"none: the layers do not tell ({reason}), and gradients of {len(known):,} positions take too long"
        else:
            table[wanted >= 0] = by_gradient(model, layer, sample, known.tolist(), seed=seed).numpy()
    return table[place.reshape(positions.shape)], how


def _traced(model: nn.Module, row: str, image: Tensor) -> tuple[Reach | None, Reach | None]:
    """What reaches the output of a row, and what it read."""
    name, wanted = split_row(row, dict(model.named_modules()))
    calls: Counter[str] = Counter()

    def observe(called: str) -> nn.Module | None:
        calls[called] += 1
        return nn.Identity() if called == name and calls[called] == wanted else None

    graph, root, observers = trace(model, observe)
    if not observers:
        raise UnknownGeometry(f"{row!r} is called inside of a module that a trace cannot look into")
    run = ReachTrace(root, graph, observers)
    try:
        run.run(image.repeat(2, 1, 1, 1))  # two, so that the axis of samples is told from axes of size 1
    except UnknownGeometry:
        raise
    except Exception as error:  # whatever a traced forward raises that the model's own does not
        raise UnknownGeometry(f"its trace does not run: {one_line(error, 90)}") from error
    (key,) = observers
    return run.outputs.get(key), run.inputs.get(key)


def _box(pixels: Tensor) -> list[Any]:
    """Top, left, bottom, right of the true ones of ``[H, W]``; zeros without one."""
    rows, columns = pixels.any(1).nonzero()[:, 0], pixels.any(0).nonzero()[:, 0]
    if not len(rows):
        return [0, 0, 0, 0]
    return [int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1]
