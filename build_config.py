"""What to build, decided once: the torch and the CUDA toolkit found, the flags, the sources.

``setup.py`` acts on it and the tests exercise it with made-up folders, so nothing here compiles
anything. Every refusal is a :class:`BuildError` whose text says what is wrong and what to do.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent

TORCH_TARGET = (2, 11)
"""Oldest torch the binary runs on; the stable ABI keeps it loadable on every later one."""

DEFAULT_ARCHITECTURES = "7.5;8.0;8.6;9.0;10.0;12.0+PTX"
"""GPU generations of a build on a machine without a GPU: Turing to Blackwell."""

TORCH_MISSING = """\
torch is not importable by {python}, and neurosens_fast is compiled against it. Type:
    pip install -c constraints.txt torch setuptools wheel ninja pybind11
    pip install --no-build-isolation .
(Without --no-build-isolation pip builds in an empty environment and does not see the torch you have.)"""


class BuildError(Exception):
    """The build cannot go on; the text is meant for the person who typed the command."""


@dataclass(frozen=True)
class Torch:
    """The torch that is compiled against."""

    version: str
    cuda: str | None
    """CUDA version torch was built with, ``None`` for a CPU-only torch."""


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit that has both the compiler and the headers."""

    home: Path
    version: str


@dataclass(frozen=True)
class CudaDecision:
    """Whether the CUDA kernels are compiled, and why."""

    toolkit: Toolkit | None
    reason: str

    def __str__(self) -> str:
        return f"neurosens_fast: building {'for CPU and CUDA' if self.toolkit else 'for CPU only'}: {self.reason}"


def find_torch() -> Torch:
    """Return the importable torch; raise :class:`BuildError` where there is none or it is too old."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise BuildError(TORCH_MISSING.format(python=sys.executable)) from error
    version = str(torch.__version__)
    major_minor = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if major_minor < TORCH_TARGET:
        needed = ".".join(map(str, TORCH_TARGET))
        raise BuildError(f"torch {version} is too old: neurosens_fast needs torch {needed} or later.")
    return Torch(version, torch.version.cuda)


def version() -> str:
    """Return the version of the package, which ``pyproject.toml`` states."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def candidate_homes(environ: Mapping[str, str], local: Path = Path("/usr/local")) -> list[Path]:
    """Return the folders that may hold a CUDA toolkit, the most explicit wish first."""
    homes = [Path(environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if environ.get(name)]
    nvcc = shutil.which("nvcc", path=environ.get("PATH", ""))
    if nvcc:
        homes += [Path(nvcc).resolve().parent.parent, *_home_behind_wrapper(nvcc)]
    homes += [local / "cuda", *sorted(local.glob("cuda-*"), reverse=True)]
    return list(dict.fromkeys(homes))


def _home_behind_wrapper(nvcc: str) -> list[Path]:
    """Ask nvcc for its own folder: the one on the PATH may be a script that starts another."""
    top = re.search(r"^#\$ TOP=(.+)$", _output([nvcc, "--dryrun", "-E", "-x", "cu", os.devnull]), re.MULTILINE)
    return [Path(os.path.normpath(top[1]))] if top else []


def _output(command: list[str]) -> str:
    """Return what a command prints on both streams, nothing where it cannot be started."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def inspect_toolkit(home: Path) -> Toolkit | str:
    """Return the toolkit in a folder, or the sentence that says why it is none."""
    if not (home / "bin" / "nvcc").is_file():
        return f"{home} has no bin/nvcc"
    if not (home / "include" / "cuda_runtime.h").is_file():
        return f"{home} has no headers (include/cuda_runtime.h is missing)"
    release = re.search(r"release (\d+\.\d+)", _output([str(home / "bin" / "nvcc"), "--version"]))
    if release is None:
        return f"{home}/bin/nvcc does not tell its version"
    return Toolkit(home, release[1])


def decide_cuda(setting: str, torch: Torch, homes: Iterable[Path]) -> CudaDecision:
    """Decide between CPU only and CPU with CUDA.

    ``setting`` is the value of ``NEUROSENS_FAST_CUDA``: ``0`` never, ``1`` or a :class:`BuildError`,
    ``auto`` whenever torch and a toolkit allow it. Whether a GPU is present does not matter.
    """
    if setting not in ("auto", "0", "1"):
        raise BuildError(f"NEUROSENS_FAST_CUDA must be auto, 0 or 1, not {setting!r}.")
    if setting == "0":
        return CudaDecision(None, "NEUROSENS_FAST_CUDA=0")
    toolkit, problem = _usable_toolkit(torch, homes)
    if toolkit is not None:
        note = f" (passed over: {problem})" if problem else ""
        return CudaDecision(toolkit, f"toolkit {toolkit.version} in {toolkit.home}, torch {torch.version}{note}")
    if setting == "1":
        raise BuildError(f"NEUROSENS_FAST_CUDA=1, but CUDA cannot be built: {problem}.")
    return CudaDecision(None, problem)


def _usable_toolkit(torch: Torch, homes: Iterable[Path]) -> tuple[Toolkit | None, str]:
    """Return the first toolkit that suits torch, and what spoke against the folders before it."""
    inspected = [inspect_toolkit(home) for home in homes if home.is_dir()]
    toolkits = [found for found in inspected if isinstance(found, Toolkit)]
    if torch.cuda is None:
        beside = f" although there is a toolkit in {toolkits[0].home}" if toolkits else ""
        return None, f"torch {torch.version} is a CPU-only build{beside}; install a torch built for CUDA"
    major = torch.cuda.split(".")[0]
    problems: list[str] = []
    for found in inspected:
        if isinstance(found, str):
            problems.append(found)
        elif found.version.split(".")[0] != major:
            problems.append(
                f"the toolkit in {found.home} is CUDA {found.version}, but torch {torch.version} was built with "
                f"CUDA {torch.cuda}: the major versions must match"
            )
        else:
            relevant = [problem for problem in problems if not problem.endswith("has no bin/nvcc")]
            return found, "; ".join(dict.fromkeys(relevant))
    if not problems:
        problems = [f"no CUDA toolkit found (set CUDA_HOME to a CUDA {major} toolkit)"]
    return None, "; ".join(dict.fromkeys(problems))


def choose_architectures(
    wish: str | None, capabilities: Iterable[tuple[int, int]], compilable: Iterable[str] = ()
) -> list[str]:
    """Return the GPU architectures to compile for, as ``["8.0", "9.0+PTX"]``.

    ``wish`` is ``TORCH_CUDA_ARCH_LIST``; without it the GPUs of this machine count, and without those
    the default list, less what this nvcc no longer or not yet knows (``compilable``, as ``"90"``).
    """
    if wish and wish != "native":
        return wish.replace(" ", ";").split(";")
    present = sorted(set(capabilities))
    if present:
        chosen = [f"{major}.{minor}" for major, minor in present]
        return [*chosen[:-1], chosen[-1] + "+PTX"]
    default = DEFAULT_ARCHITECTURES.split(";")
    known = set(compilable)
    chosen = [arch for arch in default if not known or arch.removesuffix("+PTX").replace(".", "") in known]
    if not chosen:
        raise BuildError(f"this nvcc knows none of {', '.join(default)}; set TORCH_CUDA_ARCH_LIST.")
    return [arch.removesuffix("+PTX") for arch in chosen[:-1]] + [chosen[-1].removesuffix("+PTX") + "+PTX"]


def compilable_architectures(toolkit: Toolkit) -> list[str]:
    """Return the architectures an nvcc compiles for, as ``["75", "80", ...]``."""
    return re.findall(r"compute_(\d+)", _output([str(toolkit.home / "bin" / "nvcc"), "--list-gpu-arch"]))


def visible_capabilities() -> list[tuple[int, int]]:
    """Return the compute capabilities of the GPUs of this machine."""
    import torch

    return [torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())]


def sources(cuda: bool, root: Path = ROOT) -> list[str]:
    """Return the files to compile, relative to the root, in a fixed order."""
    patterns = ["csrc/*.cpp", "csrc/cpu/*.cpp"] + (["csrc/cuda/*.cu"] if cuda else [])
    return [path.relative_to(root).as_posix() for pattern in patterns for path in sorted(root.glob(pattern))]


def headers(root: Path = ROOT) -> list[str]:
    """Return the files whose change calls for a new build, relative to the root."""
    found = [path for suffix in ("h", "cuh") for path in sorted(root.glob(f"csrc/**/*.{suffix}"))]
    return [path.relative_to(root).as_posix() for path in found]


def macros(torch: Torch, toolkit: Toolkit | None, architectures: Iterable[str]) -> list[tuple[str, str | None]]:
    """Return the preprocessor definitions: the ABI target and what ``build_info()`` reports."""
    major, minor = TORCH_TARGET
    defined: list[tuple[str, str | None]] = [
        ("TORCH_TARGET_VERSION", f"0x{major:02x}{minor:02x}000000000000"),
        ("NEUROSENS_FAST_VERSION", f'"{version()}"'),
        ("NEUROSENS_FAST_TORCH_TARGET", f'"{major}.{minor}"'),
        ("NEUROSENS_FAST_TORCH_BUILT", f'"{torch.version}"'),
    ]
    if toolkit is not None:
        defined += [
            ("USE_CUDA", None),
            ("NEUROSENS_FAST_CUDA_VERSION", f'"{toolkit.version}"'),
            ("NEUROSENS_FAST_CUDA_ARCHITECTURES", f'"{";".join(architectures)}"'),
        ]
    return defined


def cxx_flags(werror: bool) -> list[str]:
    """Return the flags of the host compiler; the language standard is torch's to choose."""
    flags = [
        "-O3",
        "-g0",
        "-ffp-contract=off",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-fopenmp-simd",
        "-fvisibility=hidden",
    ]
    return [*flags, "-Wall", "-Wextra", "-Wno-psabi", *(["-Werror"] if werror else [])]


def nvcc_flags(werror: bool) -> list[str]:
    """Return the flags of nvcc; it hands ``-Xcompiler`` ones to the host compiler."""
    flags = ["-O3", "-Xcompiler", "-fvisibility=hidden,-ffp-contract=off,-fno-math-errno,-Wall"]
    return [*flags, *(["-Werror", "all-warnings", "-Xcompiler", "-Werror"] if werror else [])]
