"""How every picture of a report looks, and how it gets into a file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .storage import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED = "#22252a", "#6b7280"
LINE, PEAK = "#0072b2", "#d55e00"  # from the Okabe-Ito set, safe for colour blindness, as are those below
GREEN, PURPLE, ORANGE, SKY = "#009e73", "#cc79a7", "#e69f00", "#56b4e9"


@contextmanager
def figure_in(path: str | PathLike[str] | BinaryIO, width: float, height: float) -> Iterator[Figure]:
    """A figure of ``width`` by ``height`` inches to draw on; written to ``path`` at the end, whole or not at all.

    A stream in place of a path gets a PNG. It is a Figure of its own: pyplot and the chosen backend are not touched.
    Raises ``ValueError`` for a format that the suffix of ``path`` names and matplotlib does not have, before anything
    is drawn.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    place = Path(path) if isinstance(path, str | PathLike) else None
    suffix = (place.suffix.lstrip(".").lower() if place else "") or "png"
    style: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": MUTED,
             "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK}  # fmt: skip
    with rc_context(style):
        figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        if suffix not in canvas.get_supported_filetypes():
            known = ", ".join(sorted(canvas.get_supported_filetypes()))
            name = place.name if place else ""
            raise ValueError(f"cannot draw a .{suffix} file; the suffix of {name!r} must be one of {known}")
        yield figure
        stream = io.BytesIO()
        figure.savefig(stream, format=suffix)
    if isinstance(path, str | PathLike):
        write_whole(path, stream.getvalue())
    else:
        path.write(stream.getvalue())
