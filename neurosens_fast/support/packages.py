"""Optional packages, imported when they are asked for."""

from __future__ import annotations

import importlib
from types import ModuleType

from .messages import one_line

_DISTRIBUTIONS = {"sklearn": "scikit-learn", "pytest_benchmark": "pytest-benchmark"}
"""What to install for packages that are imported under another name."""


def import_package(module: str, purpose: str, extra: str | None = None) -> ModuleType:
    """The imported ``module``; ``purpose`` (``"mnist needs"``) begins the sentence if that fails.

    ``extra`` is that of this package's extras which installs it, named in the command to type in place of it.
    Raises ``ModuleNotFoundError`` if its package is missing (with the command to type), or is installed but does
    not import: torchvision does not under a torch it was not built for.
    """
    package = module.partition(".")[0]
    distribution = _DISTRIBUTIONS.get(package, package)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or package).partition(".")[0] == package:
            wanted = f"'neurosens-fast[{extra}]'" if extra else distribution
            raise ModuleNotFoundError(f"{purpose} {distribution}; type: pip install {wanted}") from error
        raise _broken(distribution, purpose, error) from error
    except Exception as error:  # whatever a package that does not fit its torch raises
        raise _broken(distribution, purpose, error) from error


def _broken(distribution: str, purpose: str, error: Exception) -> ModuleNotFoundError:
    from torch import __version__

    return ModuleNotFoundError(
        f"{purpose} {distribution}, which is installed but does not work under torch {__version__} "
        f"({one_line(error, 120)}); install the {distribution} that belongs to this torch"
    )
