"""How the functions of :mod:`neurosens_fast.ops` call the operators: past torch's Python where nothing needs it.

An autograd formula written in Python makes every call of its operator go through Python, also where no gradient is
wanted; that takes longer than a small layer. Where only autograd takes part in a call, the operator is called below it.
Compilers, tracers, modes, tensor subclasses and function transforms see the ordinary call.
"""

from __future__ import annotations

from types import NoneType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from . import _C as _C  # importing the extension defines the operators

_PLAIN = frozenset((Tensor, Parameter, bool, int, float, str, NoneType))

_Key = torch._C.DispatchKey
_INFERENCE_MODE = torch._C.DispatchKeySet(_Key.BackendSelect)
_EAGER = frozenset(keys.raw_repr() for keys in (_INFERENCE_MODE, _INFERENCE_MODE.add(_Key.ADInplaceOrView)))
"""What this thread adds to the dispatch keys of its tensors; every mode, tracer and transform adds more."""


def unobserved(inputs: tuple[Any, ...]) -> bool:
    """Whether nothing but autograd takes part in a call of an operator with ``inputs``."""
    return (
        not torch.compiler.is_compiling()
        and _PLAIN.issuperset(map(type, inputs))
        and torch._C._dispatch_tls_local_include_set().raw_repr() in _EAGER
        and not torch._C._len_torch_function_stack()
    )


def below_autograd(operator: Any, *inputs: Any) -> Any:
    """What ``operator`` returns, without a gradient."""
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*inputs)
