"""``neurosens-fast bench``: what one would gain on this machine, measured; and two such results compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Quiet
from .output import print_facts, print_notes, print_table, standard_output
from .parsing import listed, one_of

MEASURE = "What is measured"
NOTHING_SELECTED = 5
"""Exit status of pytest."""
COMPARE = "Comparing"


def run(
    *,
    suite: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="kernels, audit, attacks, training, fragility, explorer, scaling or all (the default); repeatable.",
            rich_help_panel=MEASURE,
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="cpu or cuda. Default: all there are.", rich_help_panel=MEASURE)
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Small sizes, two rounds: whether it is right, not how fast.", rich_help_panel=MEASURE
        ),
    ] = False,
    shapes: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Shapes of activations for the kernels, as 64x64x32x32,256x4096.",
            rich_help_panel=MEASURE,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Threads on the CPU. Default: as torch has it.", rich_help_panel=MEASURE),
    ] = None,
    compile: Annotated[
        bool,
        typer.Option(
            "--compile/--no-compile",
            help="Measure torch.compile too, which takes most of the time of the kernels.",
            rich_help_panel=MEASURE,
        ),
    ] = True,
    only: Annotated[
        str | None,
        typer.Option(metavar="WORDS", help="Only cases whose names match, as pytest -k.", rich_help_panel=MEASURE),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="A B", help="Measure nothing; compare two results or their folders.", rich_help_panel=COMPARE
        ),
    ] = None,
    absolute: Annotated[
        bool,
        typer.Option("--absolute", help="Compare seconds, not quotients of the same run.", rich_help_panel=COMPARE),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for the results. Default: benchmarks/results/DATE-MACHINE; of quick runs and parts none.",
            rich_help_panel="Output",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """How fast is it here, against what, and how far from what the machine can do?

    Runs the benchmarks, which need pytest and pytest-benchmark. Every case first
    checks that ours computes what plain PyTorch does; then all run in turn in one
    process: this package, eager PyTorch, torch.compile of it, and torchattacks
    and foolbox where they are installed. The roof (reading, copying, multiplying)
    is measured in the same run. Leave the machine alone meanwhile. With --out:

    [bold]results.json[/]  every round of every case, the roofs, the machine
    [bold]README.md[/]     the tables
    [bold]scaling.png[/]   the scaling curves

    Suites are kept as they finish; one that is run again replaces its earlier
    result. The exit status is 1 where a case computed something else.

    [bold]neurosens-fast bench --suite kernels --shapes 64x256x56x56[/]
    [bold]neurosens-fast bench --quick[/]
    [bold]neurosens-fast bench --compare benchmarks/results/A benchmarks/results/B[/]
    """
    if compare is not None:
        return _compare(*compare, absolute=absolute)
    from neurosens_fast.benchmarking.running import (
        SUITES,
        Choice,
        default_devices,
        parsed_shapes,
        results_folder,
        run_suites,
    )
    from neurosens_fast.benchmarking.tables import title_table
    from neurosens_fast.support.packages import import_package

    for package in ("pytest", "pytest_benchmark"):
        import_package(package, "neurosens-fast bench needs", "bench")
    names = listed(suite or ["all"])
    for name in names:
        one_of(name, (*SUITES, "all"), "suite")
    devices = (device,) if device else ()
    if device:
        _check_device(device)
    choice = Choice(
        SUITES if "all" in names else tuple(dict.fromkeys(names)),
        devices,
        quick,
        compile,
        threads,
        parsed_shapes(shapes) if shapes else (),
        only,
        quiet,
    )
    folder = out if out is not None or quick or choice.partial else results_folder(devices or default_devices())
    console = standard_output(quiet)
    failed, measured = [], False
    for name, result, status in run_suites(choice, folder):
        measured = measured or result is not None
        for title in result.titles() if result else ():
            assert result is not None
            print_table(console, title_table(result, title))
        if status and not (only and status == NOTHING_SELECTED):
            failed.append(name)
    if folder is not None and measured:
        console.print(f"\nwritten to {folder}", soft_wrap=True)
    if failed:
        raise RuntimeError(f"benchmarks of {', '.join(failed)} failed; the lines above say where")
    if not measured:
        raise ValueError(f"no case is called {only!r}; pytest --collect-only lists them")


def _check_device(device: str) -> None:
    from neurosens_fast.benchmarking.running import default_devices

    if one_of(device, ("cpu", "cuda"), "device") not in default_devices():
        raise ValueError("there is no GPU here that this build can use; neurosens-fast env says what was built")


def _compare(a: Path, b: Path, absolute: bool) -> None:
    from neurosens_fast.benchmarking.compare import WORSE, comparison_table
    from neurosens_fast.benchmarking.compare import compare as compare_results
    from neurosens_fast.benchmarking.results import Results

    comparison = compare_results(Results.load(a), Results.load(b), absolute)
    console = standard_output()
    print_facts(console, [("A", str(a)), ("B", str(b))])
    print_table(console, comparison_table(comparison))
    slower = len(comparison.of(WORSE))
    print_notes(
        console, [f"{slower} of {len(comparison.changes)} cases slower in B" if slower else "nothing slower in B"]
    )
