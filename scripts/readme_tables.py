"""Write the tables of README.md from a committed result of the benchmarks.

A table stands between two comments, ``<!-- bench suite=... title="..." -->`` and ``<!-- /bench -->``. The first may say
``where="label=value;..."`` to choose rows and ``columns="a;b"`` to choose columns. ``<!-- bench result=FOLDER -->``
names the result for all tables below it; ``--result FOLDER`` puts another one there. ``--check`` only says whether
the tables are up to date.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from neurosens_fast.audit.document.content import Table
from neurosens_fast.audit.document.markdown import table_text
from neurosens_fast.benchmarking.results import Results
from neurosens_fast.benchmarking.tables import title_table

ROOT = Path(__file__).resolve().parent.parent
RESULT = re.compile(r"<!-- bench result=(\S+) -->")
TABLE = re.compile(r"(<!-- bench (suite=.*?) -->\n).*?(<!-- /bench -->)", re.DOTALL)


def chosen(table: Table, where: dict[str, str], columns: list[str]) -> Table:
    """The rows in which every label has its value, and the columns, in the order given.

    Raises ``ValueError`` for a column that is not there and where no row is left.
    """
    for name in (*where, *columns):
        if name not in table.headers:
            raise ValueError(f"the table {table.title!r} has no column {name!r}, but {', '.join(table.headers)}")
    place = {name: number for number, name in enumerate(table.headers)}
    rows = [row for row in table.rows if all(row[place[name]] == value for name, value in where.items())]
    if not rows:
        raise ValueError(f"no row of {table.title!r} has {where}")
    kept = [place[name] for name in columns] or list(range(len(table.headers)))
    return replace(
        table,
        headers=tuple(table.headers[number] for number in kept),
        rows=tuple(tuple(row[number] for number in kept) for row in rows),
        numbers=frozenset(new for new, number in enumerate(kept) if number in table.numbers),
    )


def written(text: str, root: Path = ROOT) -> str:
    """The text with every table made anew."""
    found = RESULT.search(text)
    if found is None:
        raise ValueError("nothing says <!-- bench result=FOLDER -->")
    results = Results.load(root / found[1])

    def fill(match: re.Match[str]) -> str:
        options = dict(word.split("=", 1) for word in shlex.split(match[2]))
        where = dict(pair.split("=", 1) for pair in options.get("where", "").split(";") if pair)
        columns = [name.strip() for name in options.get("columns", "").split(";") if name.strip()]
        table = chosen(title_table(results.suites[options["suite"]], options["title"]), where, columns)
        return f"{match[1]}\n{table_text(table)}\n\n{match[3]}"

    return TABLE.sub(fill, text)


def main() -> int:
    """Write or check README.md; returns 1 where it is to be checked and differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--result", help="folder of the result, from the root of the repository")
    arguments = parser.parse_args()
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    if arguments.result:
        text = RESULT.sub(f"<!-- bench result={arguments.result} -->", text)
    new = written(text)
    if arguments.check:
        if new != text:
            print("README.md differs from the result; type: python scripts/readme_tables.py", file=sys.stderr)
        return int(new != text)
    readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
