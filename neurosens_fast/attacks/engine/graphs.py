"""One evaluation of the model, captured as a CUDA graph and replayed at every step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Compute = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, Tensor, Tensor]]

_WARM_UP = 3  # forwards before a capture, as torch's notes on CUDA graphs advise: libraries choose their kernels there


class EvaluationGraph:
    """``compute`` on static buffers of one shape. What a call returns is overwritten by the next call."""

    def __init__(self, compute: Compute, images: Tensor, tensors: tuple[Tensor, ...]) -> None:
        self._images = torch.empty_like(images, memory_format=torch.preserve_format).copy_(images)
        self._tensors = tuple(tensor.clone() for tensor in tensors)
        current = torch.cuda.current_stream(images.device)
        side = torch.cuda.Stream(images.device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                compute(self._images, self._tensors)
        current.wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(images.device), torch.cuda.graph(self._graph):  # its stream is the current device's
            self._results = compute(self._images, self._tensors)

    def __call__(self, images: Tensor, tensors: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient, losses and logits for ``images``; see :class:`~.engine.Evaluation`."""
        self._images.copy_(images)
        for static, tensor in zip(self._tensors, tensors, strict=True):
            static.copy_(tensor)
        self._graph.replay()
        return self._results
