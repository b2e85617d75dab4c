"""Where the channel axis of an activation is.

The shape alone cannot tell: GELU yields ``[N, 56, 56, 384]`` in ConvNeXt and Swin. The axis is that of the
module that produced the tensor (convolution, batch norm: 1; linear, layer norm: last), carried through
element-wise and permuting modules. A choice of this package.
"""

from __future__ import annotations

import re

from torch import Tensor, nn

CONVOLUTIONS: tuple[type[nn.Module], ...] = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
LINEAR: tuple[type[nn.Module], ...] = (nn.Linear, nn.Bilinear)
NORMS_FIRST: tuple[type[nn.Module], ...] = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
NORMS_LAST: tuple[type[nn.Module], ...] = (nn.LayerNorm, nn.RMSNorm)

CHANNEL_FIRST: tuple[type[nn.Module], ...] = CONVOLUTIONS + NORMS_FIRST
"""Modules whose output is ``[N, C, *S]``."""

CHANNEL_LAST: tuple[type[nn.Module], ...] = (
    *(*LINEAR, *NORMS_LAST),
    *(nn.Embedding, nn.EmbeddingBag, nn.MultiheadAttention, nn.RNNBase),
)
"""Modules whose output is ``[N, *S, C]``."""

ACTIVATIONS: tuple[type[nn.Module], ...] = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Softshrink, nn.Hardshrink, nn.Tanhshrink),
    *(nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Threshold),
)
"""Element-wise modules; their channel is where the module that ran before them put it."""

_ACTIVATION_NAME = re.compile(r"(relu|gelu|elu|silu|swish|mish|sigmoid|tanh|softplus|activation)$", re.IGNORECASE)


def is_activation(module: nn.Module) -> bool:
    """Whether ``module`` is an element-wise activation: of torch, or a leaf without weights that is named like one.

    The latter covers ``GELUActivation`` of transformers and ``Swish`` of timm.
    """
    if isinstance(module, ACTIVATIONS):
        return True
    leaf = next(module.children(), None) is None and next(module.parameters(), None) is None
    return leaf and _ACTIVATION_NAME.search(type(module).__name__) is not None


_NORM_NAME = re.compile(r"(layer|rms)norm(\dd)?$", re.IGNORECASE)


def is_norm(module: nn.Module) -> bool:
    """Whether ``module`` normalises: one of torch, or a leaf with weights per channel that is named like one.

    The latter covers ``LlamaRMSNorm`` and ``T5LayerNorm`` of transformers. Their axis is that of what ran before: the
    same names stand for norms of images in other packages.
    """
    if isinstance(module, NORMS_FIRST + NORMS_LAST):
        return True
    weights = list(module.parameters())
    leaf = next(module.children(), None) is None and bool(weights) and all(weight.dim() == 1 for weight in weights)
    return leaf and _NORM_NAME.search(type(module).__name__) is not None


def is_linear(module: nn.Module) -> bool:
    """Whether ``module`` is linear: one of torch, or the ``Conv1D`` of GPT-2 in transformers, ``[N, L, nf]``."""
    return isinstance(module, LINEAR) or (type(module).__name__ == "Conv1D" and hasattr(module, "nf"))


# What modules call their number of output channels.
_COUNTS = ("out_channels", "out_features", "num_features", "num_channels", "embed_dim", "embedding_dim", "nf")


def own_axis(module: nn.Module) -> int | None:
    """The channel axis of the output of ``module``; None where what ran before decides."""
    if isinstance(module, nn.LayerNorm) and type(module).__name__.endswith("2d"):
        return 1  # LayerNorm2d of torchvision and timm: permutes, normalises, permutes back
    if isinstance(module, CHANNEL_FIRST):
        return 1
    if isinstance(module, NORMS_LAST) and len(module.normalized_shape) > 1:  # type: ignore[arg-type]
        return None  # over several axes, as LayerNorm([C, H, W]): the channel stays where it was
    return -1 if isinstance(module, CHANNEL_LAST) or is_linear(module) else None


def own_channels(module: nn.Module) -> int | None:
    """The number of output channels that ``module`` itself states."""
    if isinstance(module, NORMS_LAST):
        return int(module.normalized_shape[-1])  # type: ignore[union-attr, index]
    if isinstance(module, nn.RNNBase):
        size = module.proj_size or module.hidden_size
        return size * (2 if module.bidirectional else 1)
    count = next((getattr(module, name) for name in _COUNTS if hasattr(module, name)), None)
    return count if isinstance(count, int) and count > 0 else None


def permutation(module: nn.Module) -> tuple[int, ...] | None:
    """The axes of a module like torchvision's ``Permute``; None for any other."""
    dims = getattr(module, "dims", None)
    if type(module).__name__ != "Permute" or not isinstance(dims, list | tuple):
        return None
    return tuple(int(axis) for axis in dims)


def decides_axis(module: nn.Module) -> bool:
    """Whether the output of ``module`` moves the channel axis of what follows."""
    return own_axis(module) is not None or permutation(module) is not None


class ChannelTracker:
    """The channel axis of each output in turn, over the modules of one forward in the order of execution."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A new forward: images are ``[N, C, *S]``."""
        self._axis = 1
        self._channels: int | None = None
        self._shape: list[int] = []  # sizes of the deciding output without the batch, sorted
        self._by_rank: dict[int, int] = {}  # number of dimensions -> axis of the last output that decided there

    def observe(self, module: nn.Module, output: Tensor) -> int:
        """The channel axis of ``output``, which ``module`` put out just now."""
        axes, axis = permutation(module), own_axis(module)
        if axes is not None:
            before = self._axis % len(axes)
            self._axis = self._by_rank[output.dim()] = axes.index(before) if before in axes else self._axis
            return self._axis
        if axis is not None:
            self._axis, self._channels = axis, own_channels(module)
            self._shape = sorted(output.shape[1:])
            self._by_rank[output.dim()] = axis
        return self._carried(output)

    def _carried(self, output: Tensor) -> int:
        """The axis, where a block may have permuted or reshaped outside of modules."""
        count, dims = self._channels, output.dim()
        same_rank = dims == len(self._shape) + 1
        if not same_rank and dims in self._by_rank:  # as after a squeeze-and-excitation branch
            return self._by_rank[dims]
        if count is None or not -dims <= self._axis < dims or output.shape[self._axis] == count:
            return self._axis
        if same_rank and sorted(output.shape[1:]) != self._shape:  # channels were joined or split
            return self._axis
        fitting = [place for place in range(1, dims) if output.shape[place] == count]
        return fitting[0] if len(fitting) == 1 else self._axis
