"""Text as values."""

from __future__ import annotations

import pytest
import typer

from neurosens_fast.cli import parsing


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parsing.fraction, "8/255", 8 / 255),
        (parsing.fraction, "0", 0.0),
        (parsing.fraction, "1e-3", 1e-3),
        (parsing.count_or_share, "12", 12),
        (parsing.count_or_share, "0", 0),
        (parsing.count_or_share, "1", 1),
        (parsing.count_or_share, "1.0", 1.0),
        (parsing.count_or_share, "2.5%", 0.025),
        (parsing.count_or_share, "100%", 1.0),
        (parsing.seed_number, "4294967295", 2**32 - 1),
        (parsing.shape, "10", (10,)),
        (parsing.shape, "3,224,224", (3, 224, 224)),
        (parsing.shape, "3x16x8", (3, 16, 8)),
    ],
)
def test_fits(parse: object, text: str, value: object) -> None:
    found = parse(text)  # type: ignore[operator]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        *((parsing.fraction, text) for text in ("", "x", "-0.1", "1/", "/2", "inf", "1/2/3", "8:255")),
        *((parsing.count_or_share, text) for text in ("", "-1", "%", "0%", "nan", "1.5", "1e9")),
        *((parsing.seed_number, text) for text in ("", "1.0", "-1", "99999999999")),
        *((parsing.shape, text) for text in ("", "3,", "0", "3,-1", "3*3", "a")),
    ],
)
def test_does_not_fit(parse: object, text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"write|is not a whole number"):
        parse(text)  # type: ignore[operator]


def test_lists_and_axes() -> None:
    assert parsing.listed(["a,b", " c ", ",", "d"]) == ["a", "b", "c", "d"]
    assert parsing.axes(["blocks.*=-1", "a=b=2", "a=b=2"]) == {"blocks.*": -1, "a=b": 2}
    assert parsing.one_of("b", iter("abc"), "letter") == "b"
    with pytest.raises(ValueError, match=r"unknown letter 'z'; choose one of a, b, c$"):
        parsing.one_of("z", "abc", "letter")
