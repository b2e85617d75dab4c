"""A report as a document to read and to pass on: Markdown, or one HTML file that needs nothing else."""

from .html import save_html, to_html
from .markdown import picture_of, save_markdown, to_markdown

__all__ = ["picture_of", "save_html", "save_markdown", "to_html", "to_markdown"]
