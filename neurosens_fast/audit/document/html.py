"""A report as one HTML file: styles and picture inside, no script, nothing fetched."""

from __future__ import annotations

import base64
import io
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from neurosens_fast.audit.descriptions import package_version
from neurosens_fast.audit.plot import plot
from neurosens_fast.audit.storage import ReportError, write_whole

from .content import content

if TYPE_CHECKING:
    from neurosens_fast.audit.report import AuditReport

_TEMPLATE = "report.html.jinja"
_PNG = b"\x89PNG\r\n\x1a\n"


def to_html(
    report: AuditReport,
    by: str = "sensitivity",
    top: int | float = 20,
    picture: str | PathLike[str] | None = None,
) -> str:
    """See :meth:`AuditReport.save_html`."""
    from jinja2 import Environment, StrictUndefined  # comes with torch

    parts = content(report, by, top)
    source = files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source).render(
        page=parts,
        picture=base64.b64encode(_png(report, by, picture)).decode(),
        version=package_version(),
    )


def save_html(
    report: AuditReport,
    path: str | PathLike[str],
    by: str = "sensitivity",
    top: int | float = 20,
    picture: str | PathLike[str] | None = None,
) -> None:
    """See :meth:`AuditReport.save_html`."""
    write_whole(path, to_html(report, by, top, picture).encode())


def _png(report: AuditReport, by: str, picture: str | PathLike[str] | None) -> bytes:
    if picture is None:
        stream = io.BytesIO()
        plot(report, stream, by)
        return stream.getvalue()
    try:
        drawn = Path(picture).read_bytes()
    except OSError as error:
        raise ReportError(f"cannot read {Path(picture)}: {error.strerror or error}") from error
    if not drawn.startswith(_PNG):
        raise ValueError(f"{picture} is no PNG; give a picture that plot wrote as .png, or none")
    return drawn
