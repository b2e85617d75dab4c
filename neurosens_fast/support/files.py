"""Files and folders that a person typed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from .messages import did_you_mean

if TYPE_CHECKING:
    from pandas import DataFrame

_PART = ".part"


def existing_file(typed: str | PathLike[str], what: str) -> Path:
    """The path of a file, ``~`` expanded; ``what`` says in errors what it was to be.

    Raises ``FileNotFoundError`` with close names of the same folder, ``IsADirectoryError`` for a folder.
    """
    path = Path(typed).expanduser()
    if path.is_dir():
        raise IsADirectoryError(f"{what} {typed} is a folder, not a file")
    if not path.exists():
        if not path.parent.is_dir():
            raise FileNotFoundError(f"there is no {what} {typed}: its folder {path.parent} does not exist")
        names = did_you_mean(path.name, (entry.name for entry in path.parent.iterdir()))
        raise FileNotFoundError(f"there is no {what} {typed}{names}")
    return path


def fingerprint(path: Path) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:12]


def remove_parts(folder: str | PathLike[str], pattern: str) -> None:
    """Remove what :func:`write_whole` left of files called like ``pattern`` in ``folder``, where it was killed."""
    for part in Path(folder).glob(f".{pattern}.*{_PART}"):
        with contextlib.suppress(OSError):
            part.unlink()


def csv_content(frame: DataFrame) -> bytes:
    """A table as a CSV file holds it: no index, full float64 precision, the same line ends everywhere."""
    return frame.to_csv(index=False, lineterminator="\n").encode()


def write_whole(path: str | PathLike[str], content: bytes) -> None:
    """Write a file so that it appears under its name complete or not at all.

    Raises ``OSError`` that names the file; what was there before is then still there.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}{_PART}")
    try:
        with part.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise type(error)(f"cannot write {target}: {error.strerror or error}") from error
        raise
