"""The command ``neurosens-fast``: one file per command, what they share in ``options``, ``parsing`` and ``prepare``."""

from .app import app, main

__all__ = ["app", "main"]
