"""Builds the one extension, ``neurosens_fast._C``; everything else stands in ``pyproject.toml``.

Environment: ``NEUROSENS_FAST_CUDA=auto|0|1``, ``NEUROSENS_FAST_WERROR=1``, and torch's own
``TORCH_CUDA_ARCH_LIST``, ``CUDA_HOME`` and ``MAX_JOBS``.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).resolve().parent))
import build_config


def system_includes(folders: list[str]) -> list[str]:
    """Return the flags that make folders system folders: their headers raise no warnings."""
    return [flag for folder in folders for flag in ("-isystem", folder)]


def pybind11_includes() -> list[str]:
    """Return the folder of the installed pybind11; torch brings its own copy where there is none."""
    try:
        import pybind11
    except ModuleNotFoundError:
        return []
    return [str(pybind11.get_include())]


class BuildPython(build_py):
    """Puts the benchmarks, which stand beside the package, into a wheel as a part of it."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for file in (*Path("benchmarks").rglob("*.py"), Path("benchmarks/pytest.ini")):
                target = Path(self.build_lib) / "neurosens_fast" / file
                self.mkpath(str(target.parent))
                self.copy_file(str(file), str(target))


def extension_and_command() -> tuple[Extension, Any]:
    """Return the extension and the command that compiles it."""
    torch = build_config.find_torch()
    decision = build_config.decide_cuda(
        os.environ.get("NEUROSENS_FAST_CUDA") or "auto", torch, build_config.candidate_homes(os.environ)
    )
    toolkit = decision.toolkit
    architectures: list[str] = []
    if toolkit is not None:
        os.environ["CUDA_HOME"] = str(toolkit.home)
        architectures = build_config.choose_architectures(
            os.environ.get("TORCH_CUDA_ARCH_LIST"),
            build_config.visible_capabilities(),
            build_config.compilable_architectures(toolkit),
        )
        os.environ["TORCH_CUDA_ARCH_LIST"] = ";".join(architectures)

    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # no GPU is no reason to warn
    from torch.utils import cpp_extension

    class BuildExtension(cpp_extension.BuildExtension):
        """Says what was decided, and keeps its objects in one place so that a rebuild is short."""

        def finalize_options(self) -> None:
            super().finalize_options()
            own = os.path.join("build", f"objects-{sys.implementation.cache_tag}")
            self.build_temp = os.environ.get("NEUROSENS_FAST_OBJECTS") or own

        def run(self) -> None:
            print(decision, f"({' '.join(architectures)})" if architectures else "", flush=True)
            super().run()

    device = "cuda" if toolkit else "cpu"
    libraries = ["c10", "torch", "torch_cpu"] + (["torch_cuda", "cudart"] if toolkit else [])
    werror = os.environ.get("NEUROSENS_FAST_WERROR") == "1"
    includes = system_includes([*pybind11_includes(), *cpp_extension.include_paths(device)])
    extension = Extension(
        "neurosens_fast._C",
        build_config.sources(cuda=toolkit is not None),
        depends=build_config.headers(),
        include_dirs=[str(build_config.ROOT / "csrc")],
        library_dirs=cpp_extension.library_paths(device),
        libraries=libraries,
        define_macros=build_config.macros(torch, toolkit, architectures),
        extra_compile_args={
            "cxx": [*build_config.cxx_flags(werror), *includes],
            "nvcc": [*build_config.nvcc_flags(werror), *includes],
        },  # type: ignore[arg-type]
        extra_link_args=["-Wl,-s"],
        language="c++",
    )
    return extension, BuildExtension


try:
    extension, command = extension_and_command()
except build_config.BuildError as error:
    sys.exit(f"\nneurosens_fast cannot be built: {error}\n")
setup(ext_modules=[extension], cmdclass={"build_ext": command, "build_py": BuildPython})
