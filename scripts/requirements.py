"""Print the requirements that pyproject.toml states, with the extras named on the command line."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(extras: list[str]) -> list[str]:
    """Return the dependencies of the package and of the extras, in order of appearance."""
    with open(Path(__file__).resolve().parent.parent / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    optional = project["optional-dependencies"]
    return list(dict.fromkeys([*project["dependencies"], *(name for extra in extras for name in optional[extra])]))


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))
