"""Compile the CUDA sources as the build does, for every listed architecture, with warnings as errors.

Fails on a warning, on an architecture left out, and on a kernel that spills registers or keeps anything on a
stack. No GPU is needed, and ``TORCH_CUDA_ARCH_LIST`` does not shorten the list; ``--architectures`` does.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import build_config
from scripts import ptxas_report

WORK = build_config.ROOT / "build" / "cuda-compile"


def demangle(names: list[str]) -> dict[str, str]:
    """Return readable names where ``c++filt`` exists, the names themselves elsewhere."""
    if shutil.which("c++filt") is None or not names:
        return {name: name for name in names}
    done = subprocess.run(["c++filt", "-p"], input="\n".join(names), capture_output=True, text=True, check=True)
    return dict(zip(names, done.stdout.splitlines(), strict=True))


def compile_all(toolkit: build_config.Toolkit, architectures: list[str]) -> str:
    """Run the build into a folder of its own and return what the compilers said."""
    shutil.rmtree(WORK, ignore_errors=True)
    flags = [os.environ.get("NVCC_APPEND_FLAGS", ""), "-Xptxas", "-v"]
    environment = {
        **os.environ,
        "CUDA_HOME": str(toolkit.home),
        "NEUROSENS_FAST_CUDA": "1",
        "NEUROSENS_FAST_WERROR": "1",
        "NEUROSENS_FAST_OBJECTS": str(WORK / "objects"),
        "TORCH_CUDA_ARCH_LIST": ";".join(architectures),
        "NVCC_APPEND_FLAGS": " ".join(flags).strip(),
    }
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(WORK / "lib")]
    print("$", shlex.join(command), flush=True)
    done = subprocess.run(
        command,
        cwd=build_config.ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\ncuda-compile: the sources do not compile without warnings")
    return done.stdout


def main() -> None:
    """Compile, print the table of kernels, and fail where one is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cold", default="", help="pattern of kernels that may use local memory")
    parser.add_argument("--architectures", help="list to compile for, instead of all")
    parser.add_argument("--if-possible", action="store_true", help="succeed, saying why, where CUDA cannot be built")
    arguments = parser.parse_args()
    start = time.monotonic()
    try:
        torch = build_config.find_torch()
        setting = "auto" if arguments.if_possible else "1"
        decision = build_config.decide_cuda(setting, torch, build_config.candidate_homes(os.environ))
    except build_config.BuildError as error:
        sys.exit(f"cuda-compile: {error}")
    if decision.toolkit is None:
        print(f"cuda-compile: LEFT OUT, nothing was compiled: {decision.reason}")
        return
    compilable = build_config.compilable_architectures(decision.toolkit)
    architectures = build_config.choose_architectures(arguments.architectures, [], compilable)
    kernels = ptxas_report.parse(compile_all(decision.toolkit, architectures))
    names = demangle(list(dict.fromkeys(kernel.name for kernel in kernels)))
    for kernel in kernels:
        kernel.name = names[kernel.name]
    print(ptxas_report.table(kernels))
    if missing := ptxas_report.missing_architectures(kernels, architectures):
        sys.exit(f"cuda-compile: no kernel was compiled for {', '.join(missing)}")
    if bad := ptxas_report.offenders(kernels, arguments.cold):
        lines = [
            f"  {kernel.architecture}: stack {kernel.stack}, spill stores {kernel.spill_stores}, "
            f"spill loads {kernel.spill_loads} bytes: {kernel.name}"
            for kernel in bad
        ]
        sys.exit("cuda-compile: these kernels leave the registers:\n" + "\n".join(lines))
    print(
        f"cuda-compile: {len(names)} kernels for {' '.join(architectures)} with nvcc {decision.toolkit.version}, "
        f"no warnings, no spills, in {time.monotonic() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
