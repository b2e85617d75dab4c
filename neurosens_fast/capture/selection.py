"""Which layers of a model are meant: groups, dotted names, globs, or a function that chooses."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import nn

from .channels import CONVOLUTIONS, is_activation, is_linear, is_norm
from .functional import FUNCTIONAL_MEND

Chooser = Callable[[str, nn.Module], bool]
Layers = str | Sequence[str] | Chooser
"""A group of :data:`LAYER_GROUPS`, a dotted name, a glob, several of those, or ``(name, module) -> bool``."""

LAYER_GROUPS: dict[str, str] = {
    "activations": "activation modules: ReLU, GELU, SiLU, Sigmoid, ...",
    "convolutions": "convolutions and transposed convolutions",
    "linear": "linear and bilinear layers",
    "norms": "batch, group, instance, layer and RMS normalisation",
    "blocks": "composite modules in a sequence or list: residual blocks, transformer layers",
    "all": "every module that has a name",
}
"""Names that ``layers=`` takes for many layers at once, with what they mean (a choice of this package)."""

_KINDS: dict[str, Callable[[nn.Module], bool]] = {
    "activations": is_activation,
    "convolutions": lambda module: isinstance(module, CONVOLUTIONS),
    "linear": is_linear,
    "norms": is_norm,
}
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass
class Selection:
    """Chosen modules by dotted name, in the model's order.

    ``named`` are those that were named one by one: an output that cannot be tapped is an error there, and a
    reason to leave the layer out elsewhere. ``calls`` holds, for names like ``relu#2``, which calls of a forward.
    """

    modules: dict[str, nn.Module] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    calls: dict[str, set[int]] = field(default_factory=dict)

    def wants(self, name: str, call: int) -> bool:
        """Whether call number ``call`` (from 1) of module ``name`` was chosen."""
        return name not in self.calls or call in self.calls[name]


def row_of(name: str, call: int) -> str:
    """The name of the row of call number ``call`` (from 1): ``relu``, ``relu#2``, ..."""
    return name if call == 1 else f"{name}#{call}"


def groups_of(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Dotted name -> groups of :data:`LAYER_GROUPS`, for every module of ``model`` that has a name."""
    blocks = set(_blocks(model))
    found: dict[str, tuple[str, ...]] = {}
    for name, module in model.named_modules():
        if name:
            kinds = [group for group, belongs in _KINDS.items() if belongs(module)]
            found[name] = (*kinds, *(("blocks",) if name in blocks else ()), "all")
    return found


def _blocks(module: nn.Module, name: str = "", inside: bool = False) -> Iterator[str]:
    """Outermost modules that have children, are no plain container and stand in one."""
    module = getattr(module, "tapped_module", module)  # nn.Tapped stands for what it holds
    plain = type(module) in _CONTAINERS
    if inside and not plain:
        if next(module.children(), None) is not None:
            yield name
        return
    for child_name, child in module.named_children():
        yield from _blocks(child, f"{name}.{child_name}" if name else child_name, plain)


def select_layers(model: nn.Module, layers: Layers = "activations") -> Selection:
    """The modules of ``model`` that ``layers`` means.

    Of several groups some may be empty. Raises ``ValueError`` for a name or glob that fits no layer (listing the
    closest), for two names of one module, and where nothing is chosen; ``TypeError`` for ``layers`` of another type.
    """
    known = dict(model.named_modules(remove_duplicate=False))
    known.pop("", None)
    groups = groups_of(model)
    chosen = Selection()
    if isinstance(layers, str):
        layers = [layers]
    if isinstance(layers, nn.Module | type):
        raise TypeError("layers must be text or a function (name, module) -> bool; give a module by its dotted name")
    if callable(layers):
        picked = {name for name, module in model.named_modules() if name and layers(name, module)}
        if not picked:
            raise ValueError("layers chose none of the model's modules; return True for those to tap")
        return Selection({name: known[name] for name in groups if name in picked})
    if not isinstance(layers, Sequence):
        raise TypeError(f"layers must be a group, name, glob, a list of those or a function, got {layers!r:.80}")
    wanted: set[str] = set()
    for entry in layers:
        if not isinstance(entry, str):
            raise TypeError(f"layers must be given as text: groups, names or globs, got {type(entry).__name__}")
        if entry in LAYER_GROUPS:
            wanted.update(name for name, kinds in groups.items() if entry in kinds)
        elif entry in known or not re.search(r"[*?[]", entry):
            _add_named(chosen, entry, known)
        else:
            members = [name for name in groups if fnmatch.fnmatchcase(name, entry)]
            if not members:
                raise ValueError(f"no layer of the model fits the pattern {entry!r}; {closest(entry, list(known))}")
            wanted.update(members)
    order = [*groups, *(name for name in chosen.modules if name not in groups)]
    modules = {name: known[name] for name in order if name in wanted or name in chosen.modules}
    if not modules:
        asked = " and no ".join(layers) or "layer named"
        hint = "functions such as F.relu cannot be hooked" if "activations" in layers else ""
        hint += hint and f" (neurosens-fast layers, or capture.functional_activations, finds them: {FUNCTIONAL_MEND}); "
        raise ValueError(f"nothing to tap: the model has no {asked}; {hint}{_groups_present(groups)}")
    seen: dict[int, str] = {}
    for name, module in modules.items():
        if seen.setdefault(id(module), name) != name:
            raise ValueError(f"layers {seen[id(module)]!r} and {name!r} are the same module; keep one of them")
    calls = {name: numbers for name, numbers in chosen.calls.items() if name not in wanted}
    return Selection(modules, chosen.named, calls)


def _add_named(chosen: Selection, entry: str, known: dict[str, nn.Module]) -> None:
    name, mark, call = entry.partition("#") if entry not in known else (entry, "", "")
    if name not in known or (mark and (not call.isdecimal() or int(call) < 1)):
        raise ValueError(f"the model has no layer {entry!r}; {closest(entry, [*known, *LAYER_GROUPS])}")
    whole = name in chosen.modules and name not in chosen.calls
    chosen.modules[name] = known[name]
    chosen.named.add(name)
    if mark and not whole:
        chosen.calls.setdefault(name, set()).add(int(call))
    elif not mark:
        chosen.calls.pop(name, None)


def _groups_present(groups: dict[str, tuple[str, ...]]) -> str:
    present = [group for group in LAYER_GROUPS if any(group in kinds for kinds in groups.values())]
    return f"choose among its {', '.join(present)}" if present else "it has no named modules"


def closest(name: str, known: list[str]) -> str:
    """``closest: a, b`` for a name that is not among ``known``: part of an error message."""
    close = difflib.get_close_matches(name, known, n=5, cutoff=0.5) or [n for n in known if name and name in n][:5]
    if close:
        return f"closest: {', '.join(close)}"
    return f"its layers begin {', '.join(known[:8])}" if known else "it has no named layers"
