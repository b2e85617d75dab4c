"""Read what ``ptxas -v`` says of each kernel: registers, stack, spills.

A kernel that spills works in slow memory without anybody noticing; the build of the CUDA sources fails on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_ENTRY = re.compile(r"Compiling entry function '([^']+)' for '(sm_\w+)'")
_MEMORY = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
_PROPERTIES = re.compile(r"Function properties for (\S+)")


@dataclass
class Kernel:
    """One kernel compiled for one architecture; sizes in bytes."""

    name: str
    architecture: str
    registers: int = 0
    stack: int = 0
    spill_stores: int = 0
    spill_loads: int = 0

    @property
    def leaves_registers(self) -> bool:
        """Whether the kernel keeps anything in local memory."""
        return bool(self.stack or self.spill_stores or self.spill_loads)


def parse(text: str) -> list[Kernel]:
    """Return the kernels that a ``ptxas -v`` output names, in order of appearance.

    Properties of a function that is called, rather than inlined, count towards the kernel compiled at that time.
    """
    kernels: list[Kernel] = []
    for line in text.splitlines():
        if entry := _ENTRY.search(line):
            kernels.append(Kernel(entry[1], entry[2]))
        elif not kernels or _PROPERTIES.search(line):
            continue
        elif memory := _MEMORY.search(line):
            stack, stores, loads = map(int, memory.groups())
            kernels[-1].stack = max(kernels[-1].stack, stack)
            kernels[-1].spill_stores += stores
            kernels[-1].spill_loads += loads
        elif registers := _REGISTERS.search(line):
            kernels[-1].registers = int(registers[1])
    return kernels


def offenders(kernels: Iterable[Kernel], cold: str = "") -> list[Kernel]:
    """Return the kernels that use local memory, but for those whose name matches ``cold``."""
    return [kernel for kernel in kernels if kernel.leaves_registers and not (cold and re.search(cold, kernel.name))]


def missing_architectures(kernels: Iterable[Kernel], wanted: Iterable[str]) -> list[str]:
    """Return the architectures, as ``"9.0"``, for which no kernel was compiled."""
    compiled = {kernel.architecture for kernel in kernels}
    return [arch for arch in wanted if f"sm_{arch.removesuffix('+PTX').replace('.', '')}" not in compiled]


def table(kernels: Iterable[Kernel]) -> str:
    """Return one line per kernel: the most registers and the local memory over its architectures."""
    groups: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        groups.setdefault(kernel.name, []).append(kernel)
    lines = [f"{'registers':>9} {'stack':>6} {'spills':>6} {'archs':>5}  kernel"]
    for name, group in groups.items():
        spills = max(kernel.spill_stores + kernel.spill_loads for kernel in group)
        lines.append(
            f"{max(kernel.registers for kernel in group):>9} {max(kernel.stack for kernel in group):>6} "
            f"{spills:>6} {len(group):>5}  {name}"
        )
    return "\n".join(lines)
