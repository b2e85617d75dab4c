"""``neurosens-fast fragility``: which neurons does a model need, and does it help to strengthen them?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from neurosens_fast.support.names import FRAGILITY_REPORT

from .interrupts import endings_told
from .levels import LevelOptions, attack_maker, fractions
from .options import AttackOptions, DataOptions, ModelOptions, OutputOptions, RunOptions
from .output import OutputFolder, print_facts, print_notes, print_table, standard_output
from .parsing import fraction, listed, one_of

if TYPE_CHECKING:
    from torch import nn

    from neurosens_fast.audit.document.content import Table
    from neurosens_fast.fragility import FragilityReport

    from .fragility_data import Parts
    from .prepare import Subject

PANEL = "Neurons"
REPAIRED = "repaired.safetensors"
FILES = (FRAGILITY_REPORT, "neurons.csv", "fragility.png", "report.md")
TARGET_FILES = ("hits.csv", "correlations.csv", "targeting.png")
REPAIR_FILES = ("repair.csv", "repair.png", REPAIRED)


def run(
    *,
    model: ModelOptions,
    data: DataOptions,
    attack: LevelOptions,
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Layer of the neurons. Default: the first convolution.", rich_help_panel=PANEL
        ),
    ] = None,
    where: Annotated[
        Literal["before_norm", "after_norm"],
        typer.Option(
            metavar="NAME",
            help="before_norm: set the layer's own output to zero; after_norm: that of the norm that reads it.",
            rich_help_panel=PANEL,
        ),
    ] = "after_norm",
    protocol: Annotated[
        Literal["fixed", "adaptive"],
        typer.Option(
            metavar="NAME",
            help="fixed: attack the whole model once; adaptive: every model without a neuron anew, which takes longer.",
            rich_help_panel=PANEL,
        ),
    ] = "fixed",
    threshold: Annotated[
        float | None,
        typer.Option(
            parser=fraction,
            metavar="SHARE",
            help="Change of accuracy from which a neuron is fragile or antifragile. Default: one standard error.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    target: Annotated[
        bool,
        typer.Option(
            "--target/--no-target",
            help="Which neurons does the attack hit most, and are these the fragile ones? Needs scipy.",
            rich_help_panel=PANEL,
        ),
    ] = True,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Compress robust neurons, amplify fragile ones. Neurons are then judged on half of the samples; a "
            "quarter picks the factor, a quarter judges it.",
            rich_help_panel=PANEL,
        ),
    ] = False,
    compress: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIST",
            help="Factors of --repair for robust neurons. Default: 0.95,0.9,0.75,0.5,0.25.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="LIST",
            help="Remove weights by size, layer by layer: high, low or pulse, or several with commas.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    plain: Annotated[
        bool,
        typer.Option(
            "--plain", help="One whole forward for each neuron, on the model as it is.", rich_help_panel="Computing"
        ),
    ] = False,
    computing: RunOptions,
    output: OutputOptions,
    top: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many neurons tables show.", rich_help_panel="Output")
    ] = 10,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on where a run in DIR was ended, if there is one.", rich_help_panel="Output"),
    ] = False,
    save_every: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="How often to save for --resume.", rich_help_panel="Output"),
    ] = 10.0,
) -> None:
    """Find the neurons that a model needs: accuracy without each of them.

    Sets each neuron of a layer to zero in turn (nodal dropout), clean and
    under an attack of several strengths, and says which neurons are fragile,
    robust or antifragile. Files in DIR:

    [bold]fragility.safetensors[/]  the report, for FragilityReport.load
    [bold]neurons.csv[/]            one row per neuron and eps: scores, errors, classes
    [bold]fragility.png[/], [bold]report.md[/]
    [bold]hits.csv[/], [bold]correlations.csv[/], [bold]targeting.png[/]   unless --no-target
    [bold]repair.csv[/], [bold]repair.png[/], [bold]repaired.safetensors[/]   with --repair
    [bold]filter-high.csv[/], [bold]filter-high.png[/], ...   with --filter

    A network that neurosens-fast demo trained:

    [bold]neurosens-fast fragility --model digits-cnn --data digits --eps 0.05,0.1,0.2 \\
        --weights demo-output/model.safetensors --out fragile1[/]
    """
    from neurosens_fast.audit.checkpoint import unfinished
    from neurosens_fast.fragility import FILTER_KINDS, FragilityReport, nodal_dropout
    from neurosens_fast.fragility.checkpoint import CountsState
    from neurosens_fast.fragility.document import class_table, neuron_table, to_markdown
    from neurosens_fast.fragility.place import check_layer
    from neurosens_fast.support.files import write_whole
    from neurosens_fast.support.packages import import_package

    from .fragility_data import cut_in_parts, whole
    from .prepare import prepare

    if output.overwrite and resume:
        raise ValueError("--resume goes on with what --overwrite would replace; drop one")
    if compress and not repair:
        raise ValueError("--compress says nothing without --repair; add it")
    kinds = [one_of(kind, FILTER_KINDS, "filter") for kind in dict.fromkeys(listed(filters or ()))]
    factors = _factors(compress or ())
    if target:
        import_package("scipy.stats", "targeting, which --no-target leaves out, needs", extra="fragility")
    levels, maker, description = attack_maker(attack, computing.seed)
    present = unfinished(output.out, CountsState.stem)
    if present and not resume and not output.overwrite:
        raise ValueError(f"{output.out} holds an unfinished run; go on with --resume, or begin anew with --overwrite")
    files = (
        *FILES,
        *(TARGET_FILES if target else ()),
        *(REPAIR_FILES if repair else ()),
        *(f"filter-{kind}.{suffix}" for kind in kinds for suffix in ("csv", "png")),
    )
    folder = OutputFolder(output.out, files, output.overwrite or resume)
    unattacked = AttackOptions(attack="none")
    subject = prepare(model, data, unattacked, computing, lambda network: check_layer(network, layer, where))
    subject.attack_description = f"{description}, eps {', '.join(f'{level:g}' for level in levels)}"
    if repair:
        parts = cut_in_parts(subject, computing.seed, data.max_samples)
    else:
        parts = whole(subject, 1 + target + len(kinds))
    subject.data_description = parts.description
    job = _Job(subject, parts, levels, maker, description, data.batch_size, data.max_samples, computing.seed, output)
    console = standard_output(output.quiet)
    with endings_told(), folder.opened() as path:
        if output.overwrite:
            for file in (*unfinished(path, CountsState.stem), path / FRAGILITY_REPORT):
                file.unlink(missing_ok=True)
        print_facts(console, [*subject.facts(), ("dropped", f"{layer or 'first convolution'}, {where}, {protocol}")])
        report_file = path / FRAGILITY_REPORT
        if resume and not present and report_file.exists():
            report = FragilityReport.load(report_file)
            job.check_same(report, layer, where, protocol)
        else:
            report = nodal_dropout(
                subject.model,
                parts.measured,
                layer,
                maker,
                levels,
                protocol,
                where,
                plain=plain,
                attack_description=description,
                data_description=parts.description,
                model_description=subject.model_description,
                checkpoint=path,
                checkpoint_seconds=save_every,
                resume=resume,
                **job.common(dtype=True),
            )
        with _dropout_kept(path):
            report.to_csv(path / "neurons.csv", threshold)
            report.plot(path / "fragility.png", threshold)
            tables: list[Table] = []
            pictures: dict[str, str] = {}
            if target:
                tables += job.target(report, path, top, pictures)
            if repair:
                tables.append(job.repair(report, path, factors, threshold, pictures))
            for kind in kinds:
                tables.append(job.filter(kind, path, pictures))
            text = to_markdown(report, max(20, top), "fragility.png", tables, pictures, threshold)
            write_whole(path / "report.md", text.encode())
    for table in (class_table(report, threshold), neuron_table(report, top), *tables):
        print_table(console, table)
    console.print()
    print_notes(console, report.notes)
    console.print(folder.written(), soft_wrap=True)


@dataclass
class _Job:
    """What the parts of a run share."""

    subject: Subject
    parts: Parts
    levels: tuple[float, ...]
    maker: Callable[..., Any]
    description: str
    batch_size: int
    max_samples: int | None
    seed: int
    output: OutputOptions

    def common(self, dtype: bool = False) -> dict[str, Any]:
        """Arguments of every experiment."""
        shared = {
            "device": self.subject.device,
            "batch_size": self.batch_size,
            "max_samples": self.max_samples,
            "progress": self.output.progress and not self.output.quiet,
            "seed": self.seed,
        }
        return shared | ({"dtype": self.subject.dtype} if dtype else {})

    def descriptions(self) -> dict[str, Any]:
        """How experiments on the measured data describe themselves."""
        return {
            "model_description": self.subject.model_description,
            "data_description": self.parts.description,
            "attack_description": self.description,
        }

    def check_same(self, report: FragilityReport, layer: str | None, where: str, protocol: str) -> None:
        """``ValueError`` if a complete report in the folder is of another run."""
        from neurosens_fast.audit.batches import sample_count

        subject = self.subject
        dtype = str(subject.dtype).removeprefix("torch.")
        same = (
            (subject.model_description, self.parts.description) == (report.model, report.data)
            and (self.description, self.levels) == (report.attack, report.eps)
            and (where, protocol) == (report.where, report.protocol)
            and (self.seed, dtype) == (report.seed, report.dtype)
            and sample_count(self.parts.measured, self.max_samples) in (None, report.samples)
            and (layer or self._first_layer(where)) == report.layer
        )
        if not same:
            raise ValueError(
                f"{self.output.out} holds a complete report of another run; choose another folder, or add --overwrite"
            )

    def _first_layer(self, where: str) -> str:
        """The layer that is measured where none is named."""
        from neurosens_fast.audit.batches import batches
        from neurosens_fast.audit.setting import Setting
        from neurosens_fast.fragility.place import find_place

        setting = Setting(self.subject.model, None, self.subject.device, self.subject.dtype)
        few, _ = setting.batch(*next(batches(self.parts.measured, 1)))
        return find_place(setting.model, None, where, few, setting.autocast).layer

    def target(self, report: FragilityReport, path: Path, top: int, pictures: dict[str, str]) -> list[Table]:
        """Adversarial targeting: its files and tables."""
        from neurosens_fast.fragility import target
        from neurosens_fast.fragility.document_tables import correlation_table, hit_table
        from neurosens_fast.support.files import write_whole

        found = target(
            self.subject.model,
            self.parts.measured,
            self.maker,
            report.layer,
            self.levels,
            report=report,
            where=report.where,
            **self.common(dtype=True),
            **self.descriptions(),
        )
        hits, correlations, picture = TARGET_FILES
        found.to_csv(path / hits)
        frame = found.correlations_to_pandas()
        write_whole(path / correlations, frame.to_csv(index=False, lineterminator="\n").encode())
        found.plot(path / picture)
        tables = [hit_table(found, top), correlation_table(found)]
        pictures[tables[0].title] = picture
        return tables

    def repair(
        self,
        report: FragilityReport,
        path: Path,
        factors: list[float],
        threshold: float | None,
        pictures: dict[str, str],
    ) -> Table:
        """A repair picked on one part of the data and judged on another: its files and table."""
        from neurosens_fast.fragility import repair_sweep
        from neurosens_fast.fragility.document_tables import no_repair_table, repair_table
        from neurosens_fast.fragility.repair import NothingToRepair

        given: dict[str, Any] = {"compress": factors} if factors else {}
        try:
            found = repair_sweep(
                self.subject.model,
                report,
                self.parts.validation,
                self.parts.test,
                threshold=threshold,
                **given,
                **self.common(),
            )
        except NothingToRepair as reason:
            for name in REPAIR_FILES:  # of an earlier run
                (path / name).unlink(missing_ok=True)
            return no_repair_table(str(reason))
        found.to_csv(path / REPAIR_FILES[0])
        found.plot(path / REPAIR_FILES[1])
        _save_weights(found.repaired, path / REPAIRED, self.subject.model_description, found.picked)
        table = repair_table(found)
        pictures[table.title] = REPAIR_FILES[1]
        return table

    def filter(self, kind: str, path: Path, pictures: dict[str, str]) -> Table:
        """A filter of weights: its files and table."""
        from neurosens_fast.fragility import synaptic_filter
        from neurosens_fast.fragility.document_tables import filter_table

        found = synaptic_filter(
            self.subject.model,
            self.parts.measured,
            self.maker,
            self.levels,
            kind,
            **self.common(dtype=True),
            **self.descriptions(),
        )
        found.to_csv(path / f"filter-{kind}.csv")
        found.plot(path / f"filter-{kind}.png")
        table = filter_table(found)
        pictures[table.title] = f"filter-{kind}.png"
        return table


def _save_weights(model: nn.Module, path: Path, description: str, factor: float) -> None:
    from neurosens_fast.training.checkpoints import save_weights

    state = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in model.state_dict().items()}
    save_weights(path, state, {"model": description, "compress": factor})


def _factors(words: Sequence[str]) -> list[float]:
    factors = fractions(words, "--compress")
    for factor in factors:
        if not 0 < factor <= 1:
            raise ValueError(f"--compress {factor:g} is not a factor in (0, 1]")
    if factors and min(factors) == 1:
        raise ValueError("--compress 1 repairs nothing; give factors below 1, as in 0.75,0.5")
    return factors


@contextmanager
def _dropout_kept(folder: Path) -> Iterator[None]:
    """Errors inside tell that the dropout is complete in ``folder``, so that ``--resume`` need not repeat it."""
    from neurosens_fast.audit.kept import note_kept
    from neurosens_fast.fragility.checkpoint import CountsState

    try:
        yield
    except BaseException as error:
        note_kept(error, folder, CountsState.noun)
        raise
