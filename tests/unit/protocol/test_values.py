"""Values are equal by their attributes, shown with them, and made anew with others."""

from __future__ import annotations

import pytest

from capamesh.protocol.values import Value


class Point(Value):
    __slots__ = ("x", "y")

    def __init__(self, x: int, y: int = 0) -> None:
        self.x = x
        self.y = y


class Other(Point):
    __slots__ = ()


def test_values_of_one_class_are_equal_if_all_attributes_are() -> None:
    assert Point(1, 2) == Point(1, 2)
    for other in (Point(1, 3), Point(2, 2), Other(1, 2), (1, 2)):
        assert Point(1, 2) != other
    with pytest.raises(TypeError, match="unhashable"):
        hash(Point(1))
    assert repr(Point(1, 2)) == "Point(x=1, y=2)"


def test_replaced_value_has_the_changes_and_the_rest_of_the_first() -> None:
    first = Point(1, 2)
    assert first.replace(y=5) == Point(1, 5)
    assert first == Point(1, 2)
    with pytest.raises(TypeError, match="z"):
        Point(1).replace(z=3)
