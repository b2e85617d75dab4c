"""The paper's three claims with one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from .claims import masking_rows, overlap_rows, robustness_rows, sensitivity_rows
from .figures import FILES
from .plan import COMPARED, plan_for
from .report import REPORT, TABLES, write_report
from .store import Store
from .subject import Models, read_data
from .verdicts import Verdict

WRITTEN = (REPORT, *TABLES, *FILES)


@dataclass(frozen=True)
class Reproduction:
    """The ``verdicts`` on the three claims, and the ``folder`` that holds report, tables, figures and models."""

    folder: Path
    verdicts: list[Verdict]


def reproduce(
    data: str,
    out: str | PathLike[str],
    *,
    download: bool = False,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = lambda text: None,
    **changes: Any,
) -> Reproduction:
    """Measure the three claims of Zhang et al. (IEEE TIP 30:1291, 2021) on ``data``, named as for ``load_data``.

    Sensitive neurons matter most; stabilising them makes a model more robust; adversarial training lowers
    sensitivity. Trains standard, PGD-AT, TRADES, ALP, vulnerability suppression and SNS at equal budget with several
    seeds, and writes ``report.md``, tables and figures to ``out``. ``changes`` are fields of :class:`Plan`. What is
    finished is not done again: call it once more after an interruption. ``say`` is told of each part that begins.

    Raises ``ValueError`` for a folder that holds another reproduction, and what data, models and training raise.
    """
    plan, place = plan_for(data, **changes), torch.device(device)
    parts = read_data(plan, download, place)
    store = Store(Path(out), plan, say)
    models = Models(plan, parts, store, place)
    selection = {method: models.chosen(method) for method in COMPARED}
    tables = {
        "robustness": robustness_rows(models),
        "masking": masking_rows(models),
        "sensitivity": sensitivity_rows(models),
        "overlap": overlap_rows(models),
    }
    machine = f"{place}, torch {torch.__version__}" + (
        f", {torch.get_num_threads()} threads" if place.type == "cpu" else f", {torch.cuda.get_device_name(place)}"
    )
    verdicts = write_report(store.folder, plan, parts.description, tables, selection, machine)
    return Reproduction(store.folder, verdicts)
