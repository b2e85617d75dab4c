"""Modules that mark where a model is measured. Without an SNSLoss that collects they change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from .hooks import LayerHook


class SensitivityTap(nn.Module):
    """The identity, at a place whose values no other module puts out; ``channel_dim`` is their channel axis.

    Source: choice of this package.
    """

    def __init__(self, channel_dim: int | None = None) -> None:
        super().__init__()
        self.channel_dim = channel_dim

    def forward(self, input: Tensor) -> Tensor:
        """``input`` itself."""
        return input


class TappedReLU(nn.ReLU):
    """``nn.ReLU`` that measures its output in the same pass in which it writes it.

    Source: choice of this package. Equivalent to ``nn.ReLU``, whose output an SNSLoss would read once more.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``relu(input)``."""
        for hook in self._forward_hooks.values():
            if isinstance(hook, LayerHook):
                out = hook.relu(self, input, self.inplace)
                if out is not None:
                    return out
        return super().forward(input)


_OWN = ("tapped_module", "channel_dim")


class Tapped(nn.Module):
    """``module`` with its output marked to be measured; ``channel_dim`` is the channel axis of that.

    Stands for the module in every other way: attributes, state dict and names of parameters are those of ``module``.
    Source: choice of this package.
    """

    tapped_module: nn.Module

    def __init__(self, module: nn.Module, channel_dim: int | None = None) -> None:
        super().__init__()
        self.channel_dim = channel_dim
        self.tapped_module = module
        self.register_load_state_dict_post_hook(_without_prefix)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module puts out."""
        return self.tapped_module(*args, **kwargs)

    # Attributes.

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "tapped_module" or name.startswith("__"):  # not there yet in a copy; a module's own protocol
                raise
            return getattr(self.tapped_module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN or name in self.__dict__:
            super().__setattr__(name, value)
        elif isinstance(value, Tensor) and name in self.tapped_module._parameters:
            self.tapped_module._parameters[name] = value  # type: ignore[assignment]  # by torch.func.functional_call
        else:
            setattr(self.tapped_module, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self.tapped_module[key]  # type: ignore[index]

    # Names: those of the module, as if it stood here itself.

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """This one and those of the module, whose name is the same."""
        memo = set() if memo is None else memo
        if self not in memo:
            if remove_duplicate:
                memo.add(self)
            yield prefix, self
            yield from self.tapped_module.named_modules(memo, prefix, remove_duplicate)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """That of the module."""
        return self.tapped_module.state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in [key for key in state_dict if key.startswith(prefix)]:
            state_dict[f"{prefix}tapped_module.{key.removeprefix(prefix)}"] = state_dict.pop(key)


def _without_prefix(module: nn.Module, incompatible: Any) -> None:
    incompatible.missing_keys[:] = [key.replace("tapped_module.", "") for key in incompatible.missing_keys]
    incompatible.unexpected_keys[:] = [key.replace("tapped_module.", "") for key in incompatible.unexpected_keys]


def tap_names(model: nn.Module) -> dict[str, int | None]:
    """Dotted name -> channel axis, where one is given, of the tap modules in ``model``."""
    taps = (SensitivityTap, TappedReLU, Tapped)
    return {
        name: getattr(module, "channel_dim", None)
        for name, module in model.named_modules()
        if name and isinstance(module, taps)
    }
