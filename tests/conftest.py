"""Fixtures for every test: the devices whose kernels were built, and a fixed seed."""

from __future__ import annotations

import pytest
import torch

from neurosens_fast import _C

DEVICES = [pytest.param("cpu")]
if _C.build_info()["cuda"] and torch.cuda.is_available():
    DEVICES.append(pytest.param("cuda", marks=pytest.mark.cuda))


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(20211291)
