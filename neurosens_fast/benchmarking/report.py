"""A folder of results: its JSON, a Markdown page, and the picture of the scaling curves."""

from __future__ import annotations

from pathlib import Path

from neurosens_fast.audit.document.markdown import table_text
from neurosens_fast.env import format_environment
from neurosens_fast.support.files import write_whole

from .curves import crossover_note, curves, draw
from .results import Results, SuiteResult
from .tables import roof_table, title_table

PAGE = "README.md"
READING = (
    "Every case first checks that ours computes what plain PyTorch computes. Then all sides run in turn in one "
    'process, round by round: "eager / ours" says how many times faster ours is, "ours / plain read" how many times '
    "longer it takes "
    'than something that does less. "Of the roof" is the shortest time for the bytes and operations of the '
    'operator\'s model, at the rates measured in the same run, over the time it took; "bound by" which of the two '
    "that is. An arithmetic operation other than a fused multiply-add uses half of what the roof counts. Peak MB is "
    "what torch's allocator had given out at one time beyond what lived before."
)


def picture_name(suite: str) -> str:
    """The file of a suite's scaling curves."""
    return f"{suite}.png"


def suite_text(result: SuiteResult) -> str:
    """The section of one suite."""
    parts = [f"## {result.suite.capitalize()}", f"Measured on {result.date}."]
    for title in result.titles():
        table = title_table(result, title)
        parts += [f"### {title}", table_text(table), table.note]
    found = curves(result)
    notes = [f"- {name}: {note}." for name, rows in found.items() if (note := crossover_note(rows))]
    if notes:
        parts.append("\n".join(notes))
    if found:
        parts.append(f"![scaling curves]({picture_name(result.suite)})")
    roof = roof_table(result)
    parts += [f"### {roof.title}", table_text(roof), roof.note]
    return "\n\n".join(parts)


def page_text(results: Results) -> str:
    """The whole page."""
    parts = ["# Benchmarks", READING, *map(suite_text, results.suites.values())]
    parts += ["## Environment", f"```\n{format_environment(results.environment)}\n```"]
    return "\n\n".join(parts) + "\n"


def save(results: Results, folder: Path) -> None:
    """Write everything into ``folder``; what of it is there already is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    results.save(folder)
    write_whole(folder / PAGE, page_text(results).encode())
    for result in results.suites.values():
        picture = draw(result)
        if picture:
            write_whole(folder / picture_name(result.suite), picture)
