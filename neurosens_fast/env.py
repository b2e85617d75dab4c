"""What a bug report needs: how the extension was built and what it runs on.

``python -m neurosens_fast.env`` prints it. It works without the extension too, and then says how to build it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HOW_TO_BUILD = (
    "the extension is not built; type: pip install -c constraints.txt torch setuptools wheel ninja pybind11 && "
    "pip install --no-build-isolation ."
)
"""Shown where ``neurosens_fast._C`` cannot be imported."""

PACKAGES = ("numpy", "torchvision", "safetensors", "pandas", "matplotlib", "scikit-learn")


def environment() -> dict[str, Any]:
    """Return versions, hardware and the facts of the build.

    The keys are ``extension`` (what ``_C.build_info()`` returns, or ``{"error": ...}``), ``python``,
    ``system``, ``torch``, ``cpu``, ``gpu`` and ``packages``, each a dict of plain values.
    """
    return {
        "extension": _extension(),
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "system": {"os": _os_name(), "kernel": platform.release(), "machine": platform.machine()},
        "torch": _torch(),
        "cpu": _cpu(),
        "gpu": _gpu(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def format_environment(facts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the facts as aligned lines, one section after the other."""
    lines: list[str] = []
    for section, values in facts.items():
        lines.append(f"{section}:")
        width = max((len(key) for key in values), default=0)
        lines += [f"  {key:<{width}}  {_text(value)}" for key, value in values.items()]
    return "\n".join(lines)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _extension() -> dict[str, Any]:
    try:
        importlib.import_module("torch")  # brings the libraries that the extension is linked against
        info: dict[str, Any] = dict(importlib.import_module("neurosens_fast._C").build_info())
    except ModuleNotFoundError:
        return {"error": HOW_TO_BUILD}
    except ImportError as error:
        return {"error": f"the extension does not load under this torch ({error}); build it again: {HOW_TO_BUILD}"}
    return info


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch() -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        return {"error": f"torch cannot be imported: {error}"}
    return {
        "version": str(torch.__version__),
        "cuda": torch.version.cuda,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
    }


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()


def _field(path: str, key: str) -> str | None:
    """Return the value behind ``key :`` in a file of ``/proc``."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def _cpu() -> dict[str, Any]:
    kibibytes = _field("/proc/meminfo", "MemTotal")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "model": _field("/proc/cpuinfo", "model name") or platform.processor() or "unknown",
        "cores": os.cpu_count(),
        "usable_cores": usable,
        "ram": f"{int(kibibytes.split()[0]) / 2**20:.1f} GiB" if kibibytes else None,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "NEUROSENS_FAST_ISA": os.environ.get("NEUROSENS_FAST_ISA"),
    }


def _gpu() -> dict[str, Any]:
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return {"devices": None}
    return {f"device {index}": line.strip() for index, line in enumerate(done.stdout.strip().splitlines())}


def main() -> None:
    """Print the facts."""
    print(format_environment(environment()))


if __name__ == "__main__":
    main()
