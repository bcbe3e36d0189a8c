"""Where the names of points in a chart stand, so that no name runs through another one or through a point."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

CHARACTER = 6.3
"""Width in pixels of a character of a chart's text, on the average of names."""
LINE = 13
"""Height in pixels of a line of it."""
MARK = 6
"""Half the side of a point in pixels."""


class Place(NamedTuple):
    """Beside which side of its point a name stands, in pixels from it."""

    align: Literal["left", "right", "center"]
    dx: int
    dy: int


PLACES = (
    Place("left", 8, 10),
    Place("right", -8, -8),
    Place("left", 8, -8),
    Place("right", -8, 10),
    *(Place("center", 0, dy) for dy in (18, -16)),
    *(place for dy in (24, -22, 38, -36, 52, -50) for place in (Place("left", 8, dy), Place("right", -8, dy))),
)
"""In order of preference; the first two are clear of a line that rises to the right."""

_Box = tuple[float, float, float, float]


def places(points: Sequence[tuple[float, float]], names: Sequence[str | None], width: float) -> list[int]:
    """For each point, in pixels from the top left, the number of the place of its name; 0 where it has none.

    One after the other from the left: the first place that touches nothing; else the one that touches the least.
    """
    taken: list[_Box] = [(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in points]
    found = [0] * len(points)
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        if name := names[index]:
            boxes = [_box(*points[index], name, place) for place in PLACES]
            costs = [
                10 * sum(_overlap(box, other) for other in taken) + (box[0] < 0 or box[2] > width) for box in boxes
            ]
            found[index] = costs.index(min(costs))
            taken.append(boxes[found[index]])
    return found


def _box(x: float, y: float, name: str, place: Place) -> _Box:
    length = CHARACTER * len(name)
    left = x + place.dx - {"left": 0.0, "center": length / 2, "right": length}[place.align]
    top = y + place.dy - LINE / 2
    return left, top, left + length, top + LINE


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
