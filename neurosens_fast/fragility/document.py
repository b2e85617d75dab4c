"""A fragility report as a Markdown document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote

from neurosens_fast.audit.document.content import Table
from neurosens_fast.audit.document.markdown import escaped, table_text
from neurosens_fast.audit.tables import counted

from .document_tables import number, signed
from .judging import CLASSES, SCORES

if TYPE_CHECKING:
    from .report import FragilityReport

SHOWN = {name: SCORES[name] for name in ("clean", "adversarial")}


def to_markdown(
    report: FragilityReport,
    top: int = 20,
    picture: str | None = None,
    more: Iterable[Table] = (),
    pictures: Mapping[str, str] | None = None,
    threshold: float | None = None,
) -> str:
    """See :meth:`FragilityReport.to_markdown`; ``more`` tables follow, each after the picture of its title."""
    name = report.model.split(",")[0]
    blocks = [
        f"# Fragile neurons: {escaped(f'{report.layer} of {name}')}",
        "\n".join(f"- **{label}**: {escaped(text)}" for label, text in _facts(report)),
    ]
    if picture is not None:
        blocks.append(f"![Change of accuracy without each neuron]({quote(picture)})")
    for table in (class_table(report, threshold), neuron_table(report, top), *more):
        blocks.append(f"## {escaped(table.title)}")
        if pictures and table.title in pictures:
            blocks.append(f"![{escaped(table.title)}]({quote(pictures[table.title])})")
        blocks.append(table_text(table))
        if table.note:
            blocks.append(escaped(table.note))
    return "\n\n".join(blocks) + "\n"


def _facts(report: FragilityReport) -> list[tuple[str, str]]:
    place = "its own output" if report.zeroed == report.layer else f"the output of {report.zeroed}"
    dropped = f"{len(report.neurons)} of {report.channels} neurons, each set to zero at {place} ({report.where})"
    shown = "the whole model, once" if report.protocol == "fixed" else "every model without a neuron"
    return [
        ("Model", report.model),
        ("Layer", f"{report.layer} ({report.module_type}): {dropped}"),
        ("Attack", f"{report.attack} on {shown} ({report.protocol})"),
        ("Data", f"{report.data}; {report.samples:,} samples"),
        ("Computed", "; ".join(report.notes)),
        ("Dtype, device, seed", f"{report.dtype}, {report.device}, {report.seed}"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in report.versions.items())),
    ]


def class_table(report: FragilityReport, threshold: float | None = None) -> Table:
    """How many neurons are of which class, clean and at each eps, with ``threshold`` as in ``report.classes``."""
    rows = []
    for score, eps in (("clean", None), *(("adversarial", eps) for eps in report.eps)):
        classes, scores = report.classes(score, eps, threshold), report.score(score, eps)
        accuracy = report.clean_accuracy if eps is None else report.adversarial_accuracy(eps)
        worst = int(scores.argmin())
        rows.append(
            (
                "clean" if eps is None else f"eps {eps:g}",
                f"{accuracy:.1%}",
                f"{100 * (report.threshold(score, eps) if threshold is None else threshold):.2f}",
                *(str(classes.count(name)) for name in CLASSES),
                f"{report.neurons[worst]} ({signed(float(scores[worst]))})",
            )
        )
    return Table(
        f"Classes of {counted(len(report.neurons), 'neuron')} of {report.layer}",
        ("inputs", "accuracy", "threshold", *CLASSES, "most fragile"),
        tuple(rows),
        frozenset(range(1, 7)),
        f"Accuracy with every neuron in place. {_definitions(CLASSES)}. The threshold, in points of accuracy, is "
        f"{'the binomial standard error of that accuracy' if threshold is None else 'as it was given'}.",
    )


def neuron_table(report: FragilityReport, top: int) -> Table:
    """The neurons with the lowest adversarial scores at the largest eps."""
    order = report.score().argsort(stable=True)[:top].tolist()
    conditions = [("clean", None), *(("adversarial", eps) for eps in report.eps)]
    found = [(report.score(*each), report.standard_error(*each)) for each in conditions]
    largest, p_values = f"eps {max(report.eps):g}", report.p_value()
    rows = tuple(
        (
            str(report.neurons[place]),
            *(f"{signed(float(score[place]))} ± {100 * float(error[place]):.2f}" for score, error in found),
            number(float(p_values[place])),
        )
        for place in order
    )
    names = ["clean" if eps is None else f"eps {eps:g}" for _, eps in conditions]
    return Table(
        f"The {f'{len(rows)} most fragile neurons' if len(rows) > 1 else 'most fragile neuron'} at {largest}",
        ("neuron", *names, f"p at {largest}"),
        rows,
        frozenset(range(len(names) + 2)),
        f"Points of accuracy, with one standard error of the paired change. {_definitions(SHOWN)}. p: exact McNemar "
        "test, not corrected for the number of neurons.",
    )


def _definitions(of: Mapping[str, str]) -> str:
    text = "; ".join(f"{name}: {meaning}" for name, meaning in of.items())
    return text[:1].upper() + text[1:]
