"""What gets built: each refusal and each choice, with made-up CUDA folders."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import build_config
from build_config import BuildError, Toolkit, Torch

CUDA_TORCH = Torch("2.14.1+cu130", "13.0")
CPU_TORCH = Torch("2.14.1+cpu", None)


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def make_toolkit(home: Path, release: str = "13.0", headers: bool = True, nvcc: bool = True) -> Path:
    home.mkdir(parents=True)
    if nvcc:
        script(home / "bin" / "nvcc", f'echo "Cuda compilation tools, release {release}, V{release}.88"')
    if headers:
        (home / "include").mkdir()
        (home / "include" / "cuda_runtime.h").touch()
    return home


@pytest.mark.parametrize("setting", ["yes", "", "2", "AUTO"])
def test_refuses_an_unknown_setting(setting: str) -> None:
    with pytest.raises(BuildError, match=f"NEUROSENS_FAST_CUDA must be auto, 0 or 1, not '{setting}'"):
        build_config.decide_cuda(setting, CUDA_TORCH, [])


def test_zero_never_looks_at_a_toolkit(tmp_path: Path) -> None:
    decision = build_config.decide_cuda("0", CUDA_TORCH, [make_toolkit(tmp_path / "cuda")])
    assert decision.toolkit is None
    assert str(decision) == "neurosens_fast: building for CPU only: NEUROSENS_FAST_CUDA=0"


@pytest.mark.parametrize("setting", ["auto", "1"])
def test_takes_a_matching_toolkit(tmp_path: Path, setting: str) -> None:
    home = make_toolkit(tmp_path / "cuda", "13.2")
    decision = build_config.decide_cuda(setting, CUDA_TORCH, [tmp_path / "absent", home])
    assert decision.toolkit == Toolkit(home, "13.2")
    assert str(decision) == (f"neurosens_fast: building for CPU and CUDA: toolkit 13.2 in {home}, torch 2.14.1+cu130")


def test_passes_over_a_folder_without_headers_and_says_so(tmp_path: Path) -> None:
    slim = make_toolkit(tmp_path / "slim", headers=False)
    whole = make_toolkit(tmp_path / "whole")
    decision = build_config.decide_cuda("auto", CUDA_TORCH, [slim, whole])
    assert decision.toolkit is not None
    assert decision.toolkit.home == whole
    assert f"passed over: {slim} has no headers" in decision.reason


@pytest.mark.parametrize("setting", ["auto", "1"])
@pytest.mark.parametrize(
    ("torch", "toolkit", "sentence"),
    [
        pytest.param(
            CPU_TORCH,
            {},
            r"torch 2\.14\.1\+cpu is a CPU-only build although there is a toolkit in .*cuda; install a torch built for",
            id="cpu-torch-beside-toolkit",
        ),
        pytest.param(
            CPU_TORCH, None, r"torch 2\.14\.1\+cpu is a CPU-only build; install a torch built for CUDA", id="cpu-torch"
        ),
        pytest.param(
            CUDA_TORCH,
            {"headers": False},
            r"cuda has no headers \(include/cuda_runtime\.h is missing\)",
            id="no-headers",
        ),
        pytest.param(CUDA_TORCH, {"nvcc": False}, "cuda has no bin/nvcc", id="no-compiler"),
        pytest.param(
            CUDA_TORCH,
            {"release": "12.6"},
            r"the toolkit in .*cuda is CUDA 12\.6, but torch 2\.14\.1\+cu130 was built with CUDA 13\.0: the major",
            id="wrong-major-version",
        ),
        pytest.param(CUDA_TORCH, None, r"no CUDA toolkit found \(set CUDA_HOME to a CUDA 13 toolkit\)", id="none"),
    ],
)
def test_says_why_cuda_is_not_built(
    tmp_path: Path, setting: str, torch: Torch, toolkit: dict[str, bool | str] | None, sentence: str
) -> None:
    homes = [tmp_path / "cuda"]
    if toolkit is not None:
        make_toolkit(homes[0], **toolkit)  # type: ignore[arg-type]
    if setting == "1":
        with pytest.raises(BuildError, match=f"NEUROSENS_FAST_CUDA=1, but CUDA cannot be built: .*{sentence}"):
            build_config.decide_cuda(setting, torch, homes)
    else:
        decision = build_config.decide_cuda(setting, torch, homes)
        assert decision.toolkit is None
        assert re.search(sentence, str(decision))


def test_an_nvcc_that_does_not_run_is_no_toolkit(tmp_path: Path) -> None:
    home = make_toolkit(tmp_path / "cuda")
    script(home / "bin" / "nvcc", "exit 3")
    assert build_config.inspect_toolkit(home) == f"{home}/bin/nvcc does not tell its version"


def test_candidates_start_with_the_explicit_wish(tmp_path: Path) -> None:
    local = tmp_path / "local"
    for name in ("cuda", "cuda-12.6", "cuda-13.0"):
        (local / name).mkdir(parents=True)
    environ = {"CUDA_HOME": "/wish", "CUDA_PATH": "/other", "PATH": str(tmp_path / "empty")}
    assert build_config.candidate_homes(environ, local) == [
        Path("/wish"),
        Path("/other"),
        local / "cuda",
        local / "cuda-13.0",
        local / "cuda-12.6",
    ]


def test_looks_behind_a_wrapper_script(tmp_path: Path) -> None:
    home = make_toolkit(tmp_path / "opt" / "cuda")
    script(
        home / "bin" / "nvcc", f'case "$*" in *dryrun*) echo "#\\$ TOP={home}/bin/.." ;; *) echo release 13.0 ;; esac'
    )
    wrapper = script(tmp_path / "bin" / "nvcc", f'exec {home}/bin/nvcc "$@"')
    homes = build_config.candidate_homes({"PATH": f"{wrapper.parent}:/bin:/usr/bin"}, tmp_path / "local")
    assert homes[:2] == [tmp_path, home]
    decision = build_config.decide_cuda("1", CUDA_TORCH, homes)
    assert decision.toolkit == Toolkit(home, "13.0")


def test_architectures_follow_wish_then_gpu_then_default() -> None:
    choose = build_config.choose_architectures
    assert choose("8.0 9.0+PTX", [(7, 5)]) == ["8.0", "9.0+PTX"]
    assert choose(None, [(9, 0), (8, 6), (9, 0)]) == ["8.6", "9.0+PTX"]
    assert choose("native", [(9, 0)]) == ["9.0+PTX"]
    assert choose(None, []) == ["7.5", "8.0", "8.6", "9.0", "10.0", "12.0+PTX"]
    assert choose(None, [], ["75", "80", "86", "90"]) == ["7.5", "8.0", "8.6", "9.0+PTX"]
    with pytest.raises(BuildError, match=r"this nvcc knows none of 7\.5"):
        choose(None, [], ["30"])


def test_torch_missing_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BuildError) as caught:
        build_config.find_torch()
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert sys.executable in lines[0]
    assert "pip install -c constraints.txt torch setuptools wheel ninja pybind11" in lines
    assert "pip install --no-build-isolation ." in lines


def test_torch_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
    with pytest.raises(BuildError, match=r"torch 2\.9\.1\+cu128 is too old: neurosens_fast needs torch 2\.11 or later"):
        build_config.find_torch()


def test_setup_reports_a_missing_torch_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module named torch', name='torch')\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = ['setup.py', '--version']; import setup"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=build_config.ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "neurosens_fast cannot be built: torch is not importable" in done.stderr
    assert "pip install -c constraints.txt torch" in done.stderr


def test_sources_and_headers(tmp_path: Path) -> None:
    for name in ("ops.cpp", "module.cpp", "layout.h", "cpu/kernels.cpp", "cpu/simd.h", "cuda/norm.cu", "cuda/norm.cuh"):
        path = tmp_path / "csrc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    cpu = ["csrc/module.cpp", "csrc/ops.cpp", "csrc/cpu/kernels.cpp"]
    assert build_config.sources(cuda=False, root=tmp_path) == cpu
    assert build_config.sources(cuda=True, root=tmp_path) == [*cpu, "csrc/cuda/norm.cu"]
    assert sorted(build_config.headers(tmp_path)) == ["csrc/cpu/simd.h", "csrc/cuda/norm.cuh", "csrc/layout.h"]


def test_flags_keep_their_promises() -> None:
    for werror in (False, True):
        flags = build_config.cxx_flags(werror) + build_config.nvcc_flags(werror)
        assert ("-Werror" in flags) == werror
        kept_out = [flag for flag in flags if flag.startswith(("-std", "-march", "-mtune", "-fopenmp"))]
        assert kept_out == ["-fopenmp-simd"]
    assert "-ffp-contract=off" in build_config.cxx_flags(False)


def test_macros_state_the_target_and_cuda(tmp_path: Path) -> None:
    cpu = dict(build_config.macros(CPU_TORCH, None, []))
    assert cpu["TORCH_TARGET_VERSION"] == "0x020b000000000000"
    assert cpu["NEUROSENS_FAST_VERSION"] == f'"{build_config.version()}"'
    assert "USE_CUDA" not in cpu
    cuda = dict(build_config.macros(CUDA_TORCH, Toolkit(tmp_path, "13.0"), ["8.0", "9.0+PTX"]))
    assert "USE_CUDA" in cuda
    assert cuda["NEUROSENS_FAST_CUDA_VERSION"] == '"13.0"'
    assert cuda["NEUROSENS_FAST_CUDA_ARCHITECTURES"] == '"8.0;9.0+PTX"'
