"""Colours and markers that people tell apart, also those who are colour-blind."""

from __future__ import annotations

BENIGN = "#0072B2"
"""What belongs to benign inputs, on the whole page."""

ADVERSARIAL = "#D55E00"
"""What belongs to adversarial inputs, on the whole page."""

# Okabe and Ito, "Color Universal Design" (2008), the colours of benign and adversarial inputs last.
_OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#000000", BENIGN, ADVERSARIAL)

# For more classes: hues between those above, and lighter or darker than their neighbours (a choice of this package).
_FURTHER = (
    *("#882255", "#999933", "#332288", "#44AA99", "#661100", "#BBBBBB"),
    *("#117733", "#FFAABB", "#6B6B6B", "#AA4499", "#DDCC77", "#5E8AC7"),
)

_MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "hex", "star")


def class_colours(classes: int) -> list[str]:
    """A colour for each of ``classes`` classes: Okabe and Ito's for the first 8, 12 further ones, then from the first.

    Colours of more than 8 classes are not all told apart by everybody, so markers (:func:`class_markers`) differ too.
    """
    palette = _OKABE_ITO + _FURTHER
    return [palette[number % len(palette)] for number in range(classes)]


def class_markers(classes: int) -> list[str]:
    """A marker of Bokeh for each class; colour and marker together repeat after 140 classes."""
    return [_MARKERS[number % len(_MARKERS)] for number in range(classes)]
