"""The parts of ``neurosens-fast fragility``, each with its files and tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import OutputOptions

if TYPE_CHECKING:
    from torch import nn

    from neurosens_fast.audit.document.content import Table
    from neurosens_fast.fragility import FragilityReport

    from .fragility_data import Parts
    from .prepare import Subject

REPAIRED = "repaired.safetensors"
TARGET_FILES = ("hits.csv", "correlations.csv", "targeting.png")
REPAIR_FILES = ("repair.csv", "repair.png", REPAIRED)


@dataclass
class FragilityJob:
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
        from neurosens_fast.support.files import csv_content, write_whole

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
        write_whole(path / correlations, csv_content(frame))
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
