"""Fixtures for every test: the devices whose kernels were built, and a fixed seed."""

from __future__ import annotations

import os

import pytest
import torch

from neurosens_fast import _C

# Beside other workers of pytest-xdist, this process and those it starts take their share of the cores.
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _WORKERS > 1:
    _SHARE = max(1, (os.cpu_count() or 1) // _WORKERS)
    os.environ.setdefault("OMP_NUM_THREADS", str(_SHARE))
    torch.set_num_threads(_SHARE)

DEVICES = [pytest.param("cpu")]
if _C.build_info()["cuda"] and torch.cuda.is_available():
    DEVICES.append(pytest.param("cuda", marks=pytest.mark.cuda))


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(20211291)
