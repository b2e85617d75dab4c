"""The compiled extension: what it says of itself, what it registered, what it is linked against."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
from typing import Any

import pytest
import torch

import build_config
from tests.processes import Process

OPERATORS = [
    "pair_statistics",
    "accumulate_pair_statistics_",
    "relu_accumulate_pair_statistics_",
    "neuron_sensitivity",
    "neuron_sensitivity_backward",
    "topk_neurons",
    "project_step_",
    "momentum_step_",
    "paired_sensitivity",
    "paired_sensitivity_backward",
    "relu_tap",
    "relu_tap_",
    "relu_tap_backward",
    "sns_loss",
    "sns_loss_backward",
]
ON_CPU_ONLY = ["winograd_weight", "winograd_convolution"]


@pytest.fixture(scope="module")
def extension() -> Any:
    return importlib.import_module("neurosens_fast._C")


@pytest.fixture(scope="module")
def info(extension: Any) -> dict[str, Any]:
    return dict(extension.build_info())


def test_build_info(info: dict[str, Any]) -> None:
    assert info["version"] == build_config.version()
    assert info["torch_target"] == "2.11"
    assert re.match(r"\d+\.\d+\.\d+", info["torch_built"])
    assert re.match(r"(GCC|Clang) \d+", info["compiler"])
    assert info["instruction_sets"][0] == "baseline"
    assert info["instruction_set"] in info["instruction_sets"]
    if info["cuda"] is None:
        assert info["cuda_architectures"] == []
    else:
        assert re.fullmatch(r"\d+\.\d+", info["cuda"])
        assert all(re.fullmatch(r"\d+\.\d+a?(\+PTX)?", arch) for arch in info["cuda_architectures"])
        assert info["cuda_architectures"]


def test_environment_variable_selects_the_instruction_set(info: dict[str, Any]) -> None:
    code = "import torch, neurosens_fast._C as C; print(C.build_info()['instruction_set'])"
    process = Process(code=code, environment={"NEUROSENS_FAST_ISA": "baseline"})
    assert process.communicate() == ("baseline\n", "")


def test_operators_are_the_listed_ones(extension: Any) -> None:
    registered = {
        name.split("::")[1].split(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("neurosens_fast::")
    }
    assert registered == {*OPERATORS, *ON_CPU_ONLY, "read_bytes"}


@pytest.mark.parametrize("operator", [*OPERATORS, *ON_CPU_ONLY])
@pytest.mark.parametrize("key", ["CPU", "CUDA"])
def test_kernels_are_registered(info: dict[str, Any], operator: str, key: str) -> None:
    compiled = key == "CPU" or (info["cuda"] is not None and operator not in ON_CPU_ONLY)
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"neurosens_fast::{operator}", key) == compiled


def test_links_neither_openmp_nor_the_python_side_of_torch(extension: Any) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed")
    done = subprocess.run(["readelf", "-d", extension.__file__], capture_output=True, text=True, check=True)
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", done.stdout)
    assert "libtorch_cpu.so" in needed
    assert not [name for name in needed if re.match(r"lib(gomp|omp|iomp5|torch_python|c10_cuda|python)", name)]


def test_exports_only_the_entry_point(extension: Any) -> None:
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    done = subprocess.run(
        ["nm", "-D", "--defined-only", "-C", extension.__file__], capture_output=True, text=True, check=True
    )
    assert "PyInit__C" in done.stdout
    assert not re.search(r"\bT neurosens::", done.stdout)
