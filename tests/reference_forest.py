"""The trees of a forest grown once more, row by row, from the rules that cpp/forest states: what its bytes must be.

Slow, for a few hundred rows. Never import constann here.
"""

from dataclasses import dataclass, field

import numpy as np
import reference
import reference_file
from reference import Floats, lane_sum

DRAWS = 200  # rows drawn to place the two centres of a split
ATTEMPTS = 3  # planes tried before rows are split by count
LOPSIDED = 20  # a side with under 1/20 of the rows makes a plane lopsided
LEAF = 0x80000000
DEFAULT_TREES = 32
DEFAULT_ROWS_PER_TREE = 100  # or a leaf's, where that is more
WORD = 2**64
GOLDEN_RATIO = 0x9E3779B97F4A7C15


def mixed(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


class Random:
    """SplitMix64 keyed by seed and tree."""

    def __init__(self, seed: int, tree: int) -> None:
        self.state = mixed((seed + GOLDEN_RATIO) % WORD) ^ mixed((tree * GOLDEN_RATIO + 1) % WORD)

    def below(self, bound: int) -> int:
        self.state = (self.state + GOLDEN_RATIO) % WORD
        return ((mixed(self.state) >> 32) * bound) >> 32


@dataclass
class Trees:
    """All trees one after another, as the sections of a file hold them."""

    roots: list[int] = field(default_factory=list)
    children: list[list[int]] = field(default_factory=list)
    offsets: list[np.float32] = field(default_factory=list)
    planes: list[Floats] = field(default_factory=list)
    leaves: list[list[int]] = field(default_factory=list)


def unit_or_none(vector: np.ndarray) -> Floats | None:
    """Float64 or float32 to unit length; None where it is zero."""
    wide = vector.astype(np.float64)
    squared = lane_sum(wide * wide)
    return None if squared == 0 else (wide / np.sqrt(squared)).astype(np.float32)


class TreeBuilder:
    """Grows one tree into `trees`."""

    def __init__(self, metric: str, rows: Floats, capacity: int, seed: int, tree: int, trees: Trees) -> None:
        self.metric, self.rows, self.capacity, self.trees = metric, rows, capacity, trees
        self.random = Random(seed, tree)

    def grow(self, members: list[int]) -> int:
        """Make the node of these rows and all below it, the first side before the second; return its number."""
        if len(members) <= self.capacity:
            self.trees.leaves.append(members)
            return LEAF | (len(self.trees.leaves) - 1)
        number = len(self.trees.offsets)
        plane, offset, sides = self.divide(members)
        self.trees.planes.append(plane)
        self.trees.offsets.append(offset)
        children: list[int] = []
        self.trees.children.append(children)
        # Draws follow the order of nodes, so the second side waits until the first is done.
        children.extend(self.grow(side) for side in sides)
        return number

    def divide(self, members: list[int]) -> tuple[Floats, np.float32, tuple[list[int], list[int]]]:
        for _ in range(ATTEMPTS):
            if (placed := self.place_plane(members)) is None:
                continue
            plane, offset = placed
            below, above = self.sides(plane, offset, members)
            if min(len(below), len(above)) * LOPSIDED >= len(members):
                return plane, offset, (below, above)
            members = below + above  # the next attempt draws from the rows as this one left them
        members = sorted(members)
        half = len(members) // 2
        return np.zeros(self.rows.shape[1], np.float32), np.float32(0), (members[:half], members[half:])

    def sides(self, plane: Floats, offset: np.float32, members: list[int]) -> tuple[list[int], list[int]]:
        margins = offset + lane_sum(self.rows[members] * plane)
        above = margins > 0  # a NaN, where infinities cancel, lies on the plane: not above
        return [row for row, up in zip(members, above, strict=True) if not up], [
            row for row, up in zip(members, above, strict=True) if up
        ]

    def draw(self, members: list[int]) -> Floats:
        return self.rows[members[self.random.below(len(members))]]

    def place_plane(self, members: list[int]) -> tuple[Floats, np.float32] | None:
        """Two centres by 2-means over drawn rows; a plane between them, None where they fall together."""
        first, second = self.draw(members), self.draw(members)
        centres = np.stack([first, second])
        weights = np.ones(2, np.float32)
        for _ in range(DRAWS):
            row = self.draw(members)
            difference = centres - row
            weighted = weights * lane_sum(difference * difference)
            if weighted[0] == weighted[1] or np.isnan(weighted).any():
                continue
            nearer = int(weighted[1] < weighted[0])
            grown = weights[nearer] + np.float32(1)
            keep, share = weights[nearer] / grown, np.float32(1) / grown
            centres[nearer] = centres[nearer] * keep + row * share
            weights[nearer] = grown
        if self.metric == "cosine":
            return self.between_directions(centres)
        return self.between_points(centres)

    def between_directions(self, centres: Floats) -> tuple[Floats, np.float32] | None:
        one, other = (unit_or_none(centre) for centre in centres)
        if one is None or other is None:
            return None
        plane = unit_or_none(one.astype(np.float64) - other.astype(np.float64))
        return None if plane is None else (plane, np.float32(0))

    def between_points(self, centres: Floats) -> tuple[Floats, np.float32] | None:
        plane = unit_or_none(centres[0].astype(np.float64) - centres[1].astype(np.float64))
        if plane is None:
            return None
        middle = centres[0] * np.float32(0.5) + centres[1] * np.float32(0.5)
        offset = np.float32(0) - lane_sum(plane * middle)
        return (plane, offset) if np.isfinite(offset) else None


def leaf_capacity(metric: str, dim: int) -> int:
    """As many rows as Annoy's node of this metric has room for."""
    return dim + 2


def grow_forest(metric: str, dim: int, rows: np.ndarray, trees: int, seed: int) -> Trees:
    """Grow so many trees over rows as a caller gives them."""
    stored = reference.unit(rows) if metric == "cosine" else reference.padded(rows)
    grown = Trees()
    with np.errstate(all="ignore"):
        for tree in range(trees):
            builder = TreeBuilder(metric, stored, leaf_capacity(metric, dim), seed, tree, grown)
            grown.roots.append(builder.grow(list(range(len(stored)))))
    return grown


def sections(trees: Trees) -> list[tuple[int, bytes]]:
    """The sections of docs/format.md after rows."""
    bounds = np.cumsum([0, *map(len, trees.leaves)])
    return [
        (16, np.array(trees.roots, "<u4").tobytes()),
        (17, np.array(trees.children, "<u4").tobytes()),
        (18, np.array(trees.offsets, "<f4").tobytes()),
        (19, b"".join(plane.astype("<f4").tobytes() for plane in trees.planes)),
        (20, bounds.astype("<u8").tobytes()),
        (21, np.array([row for leaf in trees.leaves for row in leaf], "<u4").tobytes()),
    ]


def forest_file(
    metric: str, dim: int, rows: np.ndarray, seed: int, trees: int | None = None, effort: int | None = None
) -> bytes:
    """The file of a forest of these rows."""
    trees = trees or DEFAULT_TREES
    capacity = leaf_capacity(metric, dim)
    effort = effort or trees * max(capacity, DEFAULT_ROWS_PER_TREE)
    parameters = [(1, trees), (2, capacity), (3, effort)]
    contents = [(reference_file.ROWS, reference_file.stored_rows(metric, rows))]
    contents += sections(grow_forest(metric, dim, rows, trees, seed))
    return reference_file.index_file("forest", metric, dim, len(rows), seed, parameters, contents)
