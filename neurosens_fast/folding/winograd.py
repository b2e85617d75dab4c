"""A convolution of a private copy that runs by Winograd's algorithm where that is faster."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neurosens_fast.ops import suits_winograd, winograd_convolution, winograd_weight
from neurosens_fast.winograd import enough_channels


def is_winograd(layer: nn.Module) -> bool:
    """Whether ``layer`` is a convolution 3x3 of stride 1 that keeps the size of its images and has enough channels."""
    return (
        type(layer) is nn.Conv2d
        and layer.kernel_size == (3, 3)
        and layer.stride == layer.dilation == (1, 1)
        and layer.padding in ((1, 1), "same")
        and layer.padding_mode == "zeros"
        and layer.groups == 1
        and enough_channels(layer.in_channels, layer.out_channels)
    )


class WinogradConvolution(nn.Module):
    """``layer``, for which :func:`is_winograd` holds, with constant tensors; its images get their gradient.

    Every call decides by the size of its images. A layer in bfloat16 takes float32 images too, as under autocast.
    :meth:`forget` must follow a change of the tensors.
    """

    def __init__(self, layer: nn.Module, tile: int) -> None:
        super().__init__()
        self.layer: Any = layer
        self.tile = tile
        self._packed: dict[bool, Tensor] = {}

    def forget(self) -> None:
        """Let go of what was made of the layer's weight."""
        self._packed.clear()

    def forward(self, input: Tensor) -> Tensor:  # as a convolution names it
        """The layer's output."""
        weight = self.layer.weight
        output: Tensor
        if self._takes(input):
            lowered = input.to(weight.dtype)
            if suits_winograd(lowered, len(weight), self.tile):
                output = _Convolution.apply(lowered, self)
                return output
        output = self.layer(input)
        return output

    def _takes(self, images: Tensor) -> bool:
        weight = self.layer.weight
        if type(weight) not in (Tensor, nn.Parameter):
            return False
        if weight.dtype == torch.bfloat16:
            return True
        return images.dtype == weight.dtype and not torch.is_autocast_enabled("cpu")

    def convolved(self, images: Tensor, transposed: bool) -> Tensor:
        """``images`` convolved with the weight, or with that of the gradient."""
        weight, bias = self.layer.weight, None if transposed else self.layer.bias
        if transposed not in self._packed:
            self._packed[transposed] = winograd_weight(weight.float(), transposed)
        channels = weight.shape[1 if transposed else 0]
        return winograd_convolution(
            images, self._packed[transposed], None if bias is None else bias.float(), channels, self.tile
        )


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, layer: WinogradConvolution) -> Tensor:
        ctx.layer = layer
        return layer.convolved(images, False)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        weight = ctx.layer.layer.weight
        if suits_winograd(gradient, weight.shape[1], ctx.layer.tile):
            return ctx.layer.convolved(gradient, True), None
        return _input_gradient(gradient, weight), None


def _input_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    # torch.nn.grad.conv2d_input names images that lie contiguous, for which oneDNN rearranges the gradient and back.
    # Their values are not read.
    shape = (gradient.shape[0], weight.shape[1], *gradient.shape[2:])
    images = torch.empty(shape, dtype=gradient.dtype, device=gradient.device, memory_format=torch.channels_last)
    wanted = (True, False, False)
    return torch.ops.aten.convolution_backward(
        gradient, images, weight, None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1, wanted
    )[0]
