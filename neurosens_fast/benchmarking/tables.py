"""Results as tables, one for each title, with the same columns in the same order everywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from neurosens_fast.audit.document.content import Table

from .results import OURS, Row, SuiteResult

_ORDER = ("label", "ours", "rival", "floor", "rate", "share", "bound", "peak", "fact", "agreed")
"""Kinds of columns from left to right."""


def duration(seconds: float) -> str:
    """Three digits with a unit."""
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 1:
            return f"{three_digits(seconds * factor)} {unit}"
    return f"{three_digits(seconds * 1e9)} ns"


def three_digits(value: float) -> str:
    """A number as a table shows it."""
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


def _cells(result: SuiteResult, row: Row) -> Iterator[tuple[str, str, str]]:
    """Kind, header and text of every cell that a row has something to say in."""
    for name, text in row.labels.items():
        yield "label", name, text
    if len(result.roofs) > 1:
        yield "label", "device", row.device
    yield "ours", OURS, duration(row.median())
    for rival in row.rivals:
        yield "rival", f"{rival} / ours", str(row.gain(rival))
    for rival, why in row.missing.items():
        yield "rival", f"{rival} / ours", why
    for floor in row.floors:
        yield "floor", f"ours / {floor}", str(row.cost(floor))
    if row.work is not None:
        amount, unit = (row.work.moved, "GB/s") if row.work.moved else (row.work.flops, "GFLOP/s")
        yield "rate", unit, three_digits(amount / row.median() / 1e9)
        floor_time = result.roofs[row.device].floor(row.work)
        yield "share", "of the roof", f"{100 * floor_time.seconds / row.median():.0f} %"
        yield "bound", "bound by", floor_time.bound
    if row.axis is not None:
        yield "fact", f"per {row.axis.unit}", duration(row.median() / row.axis.amount)
    for name, count in row.peak.items():
        yield "peak", f"peak MB, {name}", three_digits(count / 1e6)
    for name, text in row.facts.items():
        yield "fact", name, text
    yield "agreed", "agreed", row.agreed


def title_table(result: SuiteResult, title: str) -> Table:
    """The table of one title. A column is there where any of its rows has something to say in it."""
    rows = [row for row in result.rows if row.title == title]
    cells = [{(kind, header): text for kind, header, text in _cells(result, row)} for row in rows]
    columns = sorted(dict.fromkeys(key for row in cells for key in row), key=lambda key: _ORDER.index(key[0]))
    return Table(
        title,
        tuple(header for _, header in columns),
        tuple(tuple(row.get(column, "") for column in columns) for row in cells),
        frozenset(place for place, (kind, _) in enumerate(columns) if kind not in ("label", "fact", "bound")),
        _note(result, rows),
    )


def _note(result: SuiteResult, rows: Sequence[Row]) -> str:
    """How the figures of a table came about."""
    counts = sorted({len(row.seconds[OURS]) for row in rows})
    rounds = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    quick = " Measured quickly, in small sizes: the figures say nothing about speed." if result.quick else ""
    return f"Medians of {rounds} rounds; quotients within a round, their median and [quartiles].{quick}"


def roof_table(result: SuiteResult) -> Table:
    """What the machine could do while the suite ran."""
    rows = []
    for device, roof in result.roofs.items():
        for size, read, copy in zip(roof.sizes, roof.read, roof.copy, strict=True):
            rows.append((device, three_digits(size / 1e6), three_digits(read / 1e9), three_digits(copy / 1e9)))
    product = "; ".join(
        f"{device}, {roof.threads} threads: {roof.flops / 1e9:,.0f} GFLOP/s" for device, roof in result.roofs.items()
    )
    return Table(
        f"The roof while {result.suite} ran",
        ("device", "MB", "read GB/s", "copy GB/s"),
        tuple(rows),
        frozenset((1, 2, 3)),
        f"Copying counts bytes read and written. Fused multiply-adds of a float32 matrix product, two each: {product}.",
    )
