"""The reader of ``ptxas -v``, on text that nvcc 13.0 printed."""

from __future__ import annotations

from scripts import ptxas_report

CLEAN = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z12scale_kernelPKfPfl' for 'sm_90'
ptxas info    : Function properties for _Z12scale_kernelPKfPfl
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 0 barriers
ptxas info    : Compile time = 3.281 ms
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z12scale_kernelPKfPfl' for 'sm_120'
ptxas info    : Function properties for _Z12scale_kernelPKfPfl
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, used 0 barriers
"""

SPILLING = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z5spillPfi' for 'sm_80'
ptxas info    : Function properties for _Z5spillPfi
    416 bytes stack frame, 24 bytes spill stores, 28 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 416 bytes cumulative stack size, 372 bytes cmem[0]
ptxas info    : Compiling entry function '_Z4callPf' for 'sm_80'
ptxas info    : Function properties for _Z4callPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers
ptxas info    : Function properties for _Z6calleef
    48 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
"""


def test_reads_every_kernel_of_every_architecture() -> None:
    kernels = ptxas_report.parse(CLEAN)
    assert [(kernel.architecture, kernel.registers) for kernel in kernels] == [("sm_90", 10), ("sm_120", 12)]
    assert {kernel.name for kernel in kernels} == {"_Z12scale_kernelPKfPfl"}
    assert ptxas_report.offenders(kernels) == []


def test_finds_spills_and_the_stack_of_called_functions() -> None:
    spill, call = ptxas_report.parse(SPILLING)
    assert (spill.stack, spill.spill_stores, spill.spill_loads, spill.registers) == (416, 24, 28, 32)
    assert (call.stack, call.registers) == (48, 8)
    assert ptxas_report.offenders([spill, call]) == [spill, call]
    assert ptxas_report.offenders([spill, call], cold="^_Z4call") == [spill]


def test_notices_an_architecture_left_out() -> None:
    kernels = ptxas_report.parse(CLEAN)
    assert ptxas_report.missing_architectures(kernels, ["9.0", "12.0+PTX"]) == []
    assert ptxas_report.missing_architectures(kernels, ["8.0", "9.0"]) == ["8.0"]
    assert ptxas_report.missing_architectures([], ["9.0"]) == ["9.0"]


def test_table_has_one_line_per_kernel() -> None:
    lines = ptxas_report.table(ptxas_report.parse(CLEAN + SPILLING)).splitlines()
    assert len(lines) == 4
    assert lines[1].split() == ["12", "0", "0", "2", "_Z12scale_kernelPKfPfl"]
    assert lines[2].split() == ["32", "416", "52", "1", "_Z5spillPfi"]
