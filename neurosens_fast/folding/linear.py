"""A linear layer of a private copy that runs by oneDNN, which adds the bias as it multiplies, where that is faster."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_LEAST_PRODUCTS = 3 * 10**7
"""Below, the call itself takes longer. By trying, against MKL (choice of this package)."""

_linear: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # what torch.compile makes of a linear layer


class FastLinear(nn.Module):
    """``layer``, an ``nn.Linear``, in float32 on the CPU and where no gradient is asked for; else as it is."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer: Any = layer

    def forward(self, input: Tensor) -> Tensor:  # as a linear layer names it
        """The layer's output."""
        weight = self.layer.weight
        fast = (
            _linear is not None
            and type(weight) in (Tensor, nn.Parameter)
            and input.device.type == "cpu"
            and input.dtype == weight.dtype == torch.float32
            and input.dim() >= 2
            and input.shape[-1] == weight.shape[1]
            and input.numel() * len(weight) >= _LEAST_PRODUCTS
            and not (torch.is_grad_enabled() and input.requires_grad)
            and not torch.is_autocast_enabled("cpu")
        )
        output: Tensor = _linear(input, weight, self.layer.bias, "none", [], "") if fast else self.layer(input)
        return output
