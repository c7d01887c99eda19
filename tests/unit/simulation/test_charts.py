"""Pictures are well-formed SVG and show what they are given."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from capamesh.simulation.charts import Bar, Line, comparison_svg

NS = "{http://www.w3.org/2000/svg}"


def test_comparison_has_a_bar_and_two_lines_for_each_policy() -> None:
    svg = comparison_svg(
        "a < b",
        [Bar("one", 10.0, 9.0, 12.0), Bar("two", 20.0, 20.0, 20.0)],
        [Line("one", ((1.0, 0.5), (10.0, 0.001))), Line("two", ((2.0, 0.5), (30.0, 0.001)))],
        [Line("one", ((0.0, 1.0), (5.0, 4.0))), Line("two", ((0.0, 2.0), (5.0, 8.0)))],
    )
    root = ET.fromstring(svg)  # noqa: S314 - our own
    texts = [text.text for text in root.iter(f"{NS}text")]
    assert "a < b" in texts
    widths = [float(rect.get("width", "0")) for rect in root.iter(f"{NS}rect")]
    assert widths[1:3] == [
        260.0,
        520.0,
    ]  # after the background: the most is as wide as there is room
    lines = [line.get("points") for line in root.iter(f"{NS}polyline")]
    assert len(lines) == 4
    assert lines[3].split()[1].split(",")[0] == "610.0"  # the last moment is at the right edge
    assert "100 %" in texts
    assert "0.1 %" in texts


def test_picture_of_nothing_is_still_a_picture() -> None:
    svg = comparison_svg("nothing", [], [], [])
    assert ET.fromstring(svg).tag == f"{NS}svg"  # noqa: S314 - our own
