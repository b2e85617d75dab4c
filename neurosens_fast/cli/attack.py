"""``neurosens-fast attack``: accuracy under attacks."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from .options import AttackOptions, DataOptions, ModelOptions, OutputOptions, RunOptions
from .output import OutputFolder, print_facts, print_notes, standard_output
from .parsing import listed

if TYPE_CHECKING:
    from rich.table import Table

    from neurosens_fast.robustness import RobustnessReport

FILES = ("robustness.json", "attacks.csv", "samples.csv")


def run(
    *,
    model: ModelOptions,
    data: DataOptions,
    attack: AttackOptions,
    cascade: Annotated[
        bool,
        typer.Option(
            "--cascade",
            help="Run each attack only on what those before it left standing, which is faster.",
            rich_help_panel="Attack",
        ),
    ] = False,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="No folding, no other memory layout: the numbers of a plain loop in PyTorch.",
            rich_help_panel="Attack",
        ),
    ] = False,
    compaction: Annotated[
        bool,
        typer.Option(
            "--compaction",
            help="Drop samples as soon as they fall, for success rather than the strongest perturbation.",
            rich_help_panel="Attack",
        ),
    ] = False,
    computing: RunOptions,
    output: OutputOptions,
) -> None:
    """How many samples does a model still get right under attack?

    --attack takes several names, separated by commas. Each attack runs on
    every sample that the model gets right; the untouched model judges. With
    --dtype bfloat16 attacks run the model in bfloat16. Writes
    [bold]robustness.json[/], [bold]attacks.csv[/] and [bold]samples.csv[/] to DIR.

    [bold]neurosens-fast attack --model digits-cnn --data digits --eps 0.15 \\
        --attack pgd,apgd-dlr,square --queries 500 \\
        --weights demo-output/model.safetensors --out run1[/]
    """
    import torch

    from neurosens_fast.audit.tables import counted
    from neurosens_fast.robustness import RobustnessWarning, robust_accuracy

    from .attacks import build_attack, check_attacks
    from .prepare import prepare

    names = list(dict.fromkeys(listed([attack.attack])))
    check_attacks(attack, names)
    if computing.dtype == "float16":
        raise ValueError("--dtype float16 says nothing to attacks; use float32, float64 or bfloat16")
    if exact and (compaction or computing.dtype == "bfloat16"):
        raise ValueError(f"--exact leaves no room for {'--compaction' if compaction else '--dtype bfloat16'}; drop one")
    folder = OutputFolder(output.out, FILES, output.overwrite)
    nothing = AttackOptions(attack="none")
    subject = prepare(model, data, nothing, computing, lambda network: None)
    switches = {"exact": True} if exact else {"compaction": compaction}
    if computing.dtype == "bfloat16":
        switches["dtype"] = torch.bfloat16  # type: ignore[assignment]
    built = {name: build_attack(attack, subject.model, computing.seed, name, **switches) for name in names}
    subject = replace(subject, attack_description="; ".join(text for _, text in built.values()))
    console = standard_output(output.quiet)
    with folder.opened() as path, warnings.catch_warnings():
        warnings.simplefilter("ignore", RobustnessWarning)  # they are printed as notes
        print_facts(console, subject.facts())
        report = robust_accuracy(
            subject.model,
            subject.data,
            {name: built_attack for name, (built_attack, _) in built.items()},
            cascade=cascade,
            device=subject.device,
            batch_size=data.batch_size,
            max_samples=data.max_samples,
            progress=output.progress and not output.quiet,
            seed=computing.seed,
            model_description=subject.model_description,
            data_description=subject.data_description,
        )
        report.save(path / "robustness.json")
        report.to_csv(path / "attacks.csv")
        report.samples_to_csv(path / "samples.csv")
    accuracy = f"{report.clean_accuracy:.1%} clean, {report.worst_case_accuracy:.1%} in the worst case"
    print_facts(console, [("accuracy", f"{accuracy}, {counted(report.samples, 'sample')}")])
    console.print()
    console.print(_table(report))
    console.print()
    print_notes(console, report.warnings)
    console.print(folder.written(), soft_wrap=True)


def _table(report: RobustnessReport) -> Table:
    """Accuracy under each attack, and the mean norms of the perturbations that fooled the model."""
    from neurosens_fast.audit.tables import text_table

    names = [outcome.name for outcome in report.outcomes]
    what = "after each attack" if report.cascade else "under each attack"
    columns = ("accuracy", "attacked", "fooled", "Linf", "L2", "L1", "seconds")
    table = text_table(f"Accuracy {what}, and mean norms of what fooled the model", "attack", names, columns)
    for outcome in report.outcomes:
        norms = [f"{norm:.4g}" if norm == norm else "-" for norm in (outcome.linf, outcome.l2, outcome.l1)]
        counts = [f"{outcome.accuracy:.1%}", f"{outcome.attacked:,}", f"{outcome.fooled:,}"]
        table.add_row(outcome.name, *counts, *norms, f"{outcome.seconds:.1f}")
    return table
