"""Data sets by name: scikit-learn's digits, torchvision's, image folders, and functions of a person's own file."""

from __future__ import annotations

from .digits_split import Split, digits
from .load import data_names, load_data
from .source import DataSource

__all__ = ["DataSource", "Split", "data_names", "digits", "load_data"]
