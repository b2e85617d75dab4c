"""Builds the emulation of the CUDA kernels with the host compiler and hands it cases; run as a module, builds only."""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parents[1] / "csrc"
COMPILER = os.environ.get("CXX") or "g++"
FLAGS = [
    *("-Og", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-ffp-contract=off"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-DNS_EMULATION"),
]
ASAN_OPTIONS = "detect_stack_use_after_return=0"  # its stacks would not follow the fibers
INSTANCES = {"float": "float", "double": "double", "half": "neurosens::Half", "bfloat16": "neurosens::BFloat16"}
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
OPERATORS = [
    *["pair_statistics", "accumulate", "relu_accumulate", "sensitivity", "backward", "relu_tap", "relu_tap_backward"],
    *["mean_of_neurons", "weights_of_neurons", "topk", "project", "project_ball", "momentum", "read", "last"],
    "indices",
]
JOINED, WITHOUT_BENIGN, WITHOUT_ADVERSARIAL, IN_PLACE, NEGATIVE_ZERO = 4, 8, 16, 32, 64  # as cases.h names them
NORMS: list[int | str] = [1, "mse", "l2", "cosine"]


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def activation(shape: tuple[int, int, int], dtype: torch.dtype, layout: str, seed: int) -> Tensor:
    """Random ``[N, C, S]`` in a memory layout; "sliced" ones are part of a larger tensor."""
    n, c, s = shape
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n, c, s, dtype=torch.float64, generator=generator).to(dtype)
    if layout == "rows":
        return values.contiguous()
    if layout == "columns":
        return values.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "sliced rows":  # steps of whole 16-byte accesses, as rows are read
        return torch.zeros(n + 1, c + 8, s, dtype=dtype)[1:, 8:].copy_(values)
    assert layout == "sliced columns"
    return torch.zeros(n + 1, s, c + 3, dtype=dtype)[1:, :, 1 : c + 1].copy_(values.transpose(1, 2)).transpose(1, 2)


def pair(shape: tuple[int, int, int], dtype: torch.dtype, layout: str) -> tuple[Tensor, Tensor]:
    return activation(shape, dtype, layout, 1), activation(shape, dtype, layout, 2)


def unit(shape: tuple[int, int, int], dtype: torch.dtype) -> float:
    """Relative error of a sum along a row: one rounding per addition of its longest chain."""
    chain = shape[2] if shape[2] <= 64 else shape[2] / 8
    return (chain + 16) * torch.finfo(accumulate_dtype(dtype)).eps


def compiled(jobs: list[tuple[Path, str, list[str]]], flags: list[str], link: list[str], depends: list[Path]) -> Path:
    """Return what sources, each with a name and flags of its own, link to; compiled unless the same already were."""
    inputs = sorted({*depends, *(source for source, _, _ in jobs)})
    digest = hashlib.sha256(repr((COMPILER, flags, link, jobs)).encode())
    for path in inputs:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    cache = Path(tempfile.gettempdir()) / f"neurosens-emulation-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    result = cache / digest.hexdigest()[:16]
    with (cache / f"{result.name}.lock").open("w") as lock, tempfile.TemporaryDirectory(dir=cache) as folder:
        fcntl.flock(lock, fcntl.LOCK_EX)  # processes that test side by side compile once
        if result.exists():
            return result

        def compile_one(job: tuple[Path, str, list[str]]) -> str:
            source, name, own = job
            target = f"{folder}/{name}.o"
            command = [COMPILER, *flags, *own, "-x", "c++", "-c", str(source), "-o", target]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
            return target

        with ThreadPoolExecutor(min(len(jobs), os.cpu_count() or 1)) as pool:
            objects = list(pool.map(compile_one, jobs))
        linked = f"{folder}/linked"
        subprocess.run([COMPILER, *objects, *link, "-o", linked], check=True)
        Path(linked).replace(result)
    return result


def build(cuda: Path = SOURCES / "cuda") -> Path:
    """Return the program that runs single kernels."""
    jobs: list[tuple[Path, str, list[str]]] = [(HERE / "main.cpp", "main", [])]
    jobs += [(HERE / "kernels.cpp", n, [f"-DNS_TYPE={t}", f"-DNS_RUN=run_{n}"]) for n, t in INSTANCES.items()]
    depends = [*HERE.glob("*.h"), *cuda.glob("*.cuh"), *(SOURCES / "math").glob("*.h")]
    return compiled(jobs, [*FLAGS, f"-I{HERE}", f"-I{cuda}"], ["-fsanitize=address,undefined"], depends)


def build_operators() -> Path:
    """Return a library that registers all CUDA operators for CPU tensors, as ``torch.ops.emulated``."""
    sources = [SOURCES / "ops.cpp", *sorted((SOURCES / "cuda").glob("*.cu"))]
    torch_home = Path(torch.__file__).parent
    flags = [
        *("-std=c++17", "-Og", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"),
        *("-Wall", "-Werror", "-Wno-unknown-pragmas", "-DNS_EMULATION", "-Dneurosens_fast=emulated"),
        *("-DTORCH_TARGET_VERSION=0x020b000000000000", f"-DNS_TORCH={torch.__version__}"),
        *(f"-I{HERE}", f"-I{SOURCES}"),
        *(f"-isystem{torch_home}/include", f"-isystem{torch_home}/include/torch/csrc/api/include"),
    ]
    link = ["-shared", f"-L{torch_home}/lib", "-ltorch", "-ltorch_cpu", "-lc10"]
    depends = [*HERE.glob("*.h"), *SOURCES.glob("*.h")]
    depends += [path for folder in ("cuda", "math") for path in (SOURCES / folder).iterdir()]
    return compiled([(source, source.stem, []) for source in sources], flags, link, depends)


@dataclass
class Case:
    """One call of a kernel, activations first; inputs keep the strides that they have as tensors."""

    operator: str
    inputs: list[Tensor]
    channel_dim: int = 1
    argument: int = 0
    flags: int = 0
    numbers: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    shape: tuple[int, int, int, bool] | None = None
    answers: Sequence[tuple[torch.dtype, tuple[int, ...]]] = ()

    def encode(self) -> bytes:
        """Return the request as ``main.cpp`` reads it."""
        first = self.inputs[0]
        samples, channels, positions, columns = self.shape or describe(first, self.channel_dim)
        if self.flags & JOINED:
            samples //= 2
        dtype = DTYPES.index(first.dtype) if first.dtype in DTYPES else 0  # bytes: any instance will do
        header = [OPERATORS.index(self.operator), dtype, samples, channels, positions]
        header += [int(columns), self.argument | self.flags, len(self.inputs)]
        data = struct.pack("<8q4d", *header, *self.numbers)
        for x in self.inputs:
            storage = torch.empty(0, dtype=torch.uint8).set_(x.untyped_storage()).numpy().tobytes()
            strides = (0, 0, 0) if x.dim() < 2 else strides_of(x, self.channel_dim)
            data += struct.pack("<5q", len(storage), x.storage_offset(), *strides) + storage
        return data


def strides_of(x: Tensor, channel_dim: int) -> tuple[int, int, int]:
    """Sample, channel and position stride; positions must be reachable with one stride."""
    x = x.movedim(channel_dim, 1)
    sizes = [(x.size(i), x.stride(i)) for i in range(2, x.dim()) if x.size(i) != 1]
    for (_, outer), (size, inner) in pairwise(sizes):
        assert outer == size * inner, "positions need one stride"
    return x.stride(0), x.stride(1), sizes[-1][1] if sizes else 1


def describe(x: Tensor, channel_dim: int) -> tuple[int, int, int, bool]:
    """Samples, channels, positions, and whether the layout is columns, as the CUDA operators decide it."""
    moved = x.movedim(channel_dim, 1)
    positions = 1
    for size in moved.shape[2:]:
        positions *= size
    rows = positions > 1 and strides_of(x, channel_dim)[2] == 1
    return moved.size(0), moved.size(1), positions, not rows


def some_totals(channels: int) -> tuple[Tensor, Tensor]:
    """Totals that have something in them already."""
    generator = torch.Generator().manual_seed(3)
    sums = torch.rand(channels, 14, dtype=torch.float64, generator=generator)
    maxima = torch.randn(channels, 3, dtype=torch.float64, generator=generator)
    maxima[:1] = -torch.inf
    return sums, maxima


def accumulate_case(z: Tensor, z_adv: Tensor) -> tuple[Case, Tensor, Tensor]:
    """A case that adds to totals, and these totals before it."""
    sums, maxima = some_totals(z.shape[1])
    answers = [(torch.float64, tuple(sums.shape)), (torch.float64, tuple(maxima.shape))]
    return Case("accumulate", [z, z_adv, sums.clone(), maxima.clone()], answers=answers), sums, maxima


def run(cases: list[Case], program: Path | None = None) -> list[list[Tensor]]:
    """Run cases in one process and return the outputs of each, with the dtypes and shapes it names."""
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder, "request"), Path(folder, "answer")
        request.write_bytes(struct.pack("<q", len(cases)) + b"".join(case.encode() for case in cases))
        environment = {**os.environ, "ASAN_OPTIONS": ASAN_OPTIONS}
        command = [str(program or build()), str(request), str(answer)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
        if done.returncode:
            raise RuntimeError(f"the emulation ended with {done.returncode}:\n{done.stderr[-4000:]}")
        data = answer.read_bytes()
    results, at = [], 0
    for case in cases:
        outputs = []
        for dtype, shape in case.answers:
            (size,) = struct.unpack_from("<q", data, at)
            raw = bytearray(data[at + 8 : at + 8 + size])
            outputs.append((torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)).reshape(shape))
            at += 8 + size
        results.append(outputs)
    assert at == len(data), "the emulation returned more than was asked for"
    return results


if __name__ == "__main__":
    build()
    build_operators()
