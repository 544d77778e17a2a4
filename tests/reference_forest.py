"""The trees of a forest grown once more, row by row, from the rules that cpp/forest states: what its bytes must be.

Slow, for a few hundred rows. Never import constann here.
"""

from dataclasses import dataclass, field

import numpy as np
import reference
import reference_codes
import reference_file
from reference import Floats, lane_sum

DRAWS = 200  # rows drawn to place the two centres of a split, or as many as there are
BIT_DRAWS = 20  # bits tried at random before all are
ATTEMPTS = 3  # planes tried before rows are split by count
LOPSIDED = 20  # a side with under 1/20 of the rows makes a plane lopsided
LEAF = 0x80000000
NO_BIT = 0xFFFFFFFF
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
    bits: list[int] = field(default_factory=list)
    leaves: list[list[int]] = field(default_factory=list)


def unit_or_none(vector: np.ndarray) -> Floats | None:
    """Float64 or float32 to unit length; None where it is zero."""
    wide = reference.padded(vector.astype(np.float64))
    squared = lane_sum(wide * wide)
    return None if squared == 0 else (wide / np.sqrt(squared)).astype(np.float32)[: len(vector)]


def lengthening(rows: Floats) -> tuple[Floats, np.float32]:
    """For dot: the element that makes each row as long as the longest, and that length."""
    wide = rows.astype(np.float64)
    squares = lane_sum(wide * wide)
    longest = max(squares.max(), 0.0)
    return np.sqrt(longest - squares).astype(np.float32), np.float32(np.sqrt(longest))


class TreeBuilder:
    """Grows one tree into `trees`."""

    def __init__(self, metric: str, dim: int, rows: np.ndarray, seed: int, tree: int, trees: Trees) -> None:
        self.metric, self.dim, self.rows, self.trees = metric, dim, rows, trees
        self.capacity = leaf_capacity(metric, dim)
        self.random = Random(seed, tree)
        self.extra, self.row_length = np.zeros(len(rows), np.float32), np.float32(1)
        if metric == "dot":
            self.extra, self.row_length = lengthening(rows)

    def grow(self, members: list[int]) -> int:
        """Make the node of these rows and all below it, the first side before the second; return its number."""
        if len(members) <= self.capacity:
            self.trees.leaves.append(members)
            return LEAF | (len(self.trees.leaves) - 1)
        number = len(self.trees.children)
        if self.metric == "hamming":
            bit, sides = self.divide_by_bit(members)
            self.trees.bits.append(bit)
        else:
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
            plane, extra, offset = placed
            products = lane_sum(self.rows[members] * plane) + extra * self.extra[members]
            above = offset + products > 0  # a NaN, where infinities cancel, lies on the plane: not above
            sides = parted(members, above)
            if min(map(len, sides)) * LOPSIDED >= len(members):
                return plane, offset, sides
            members = sides[0] + sides[1]  # the next attempt draws from the rows as this one left them
        return np.zeros(self.rows.shape[1], np.float32), np.float32(0), halves(members)

    def divide_by_bit(self, members: list[int]) -> tuple[int, tuple[list[int], list[int]]]:
        bits = np.unpackbits(self.rows[members], axis=1)
        smaller = np.minimum(bits.sum(0), len(members) - bits.sum(0))
        best, chosen = 0, NO_BIT
        for _ in range(BIT_DRAWS):
            if best * LOPSIDED >= len(members):
                break
            bit = self.random.below(self.dim)
            if smaller[bit] > best:
                best, chosen = smaller[bit], bit
        if best == 0:
            parting = np.flatnonzero(smaller[: self.dim])
            if not len(parting):
                return NO_BIT, halves(members)
            chosen = int(parting[0])
        return chosen, parted(members, bits[:, chosen] == 1)

    def draw(self, members: list[int]) -> int:
        return members[self.random.below(len(members))]

    def place_plane(self, members: list[int]) -> tuple[Floats, np.float32, np.float32] | None:
        """Two centres by 2-means over drawn rows; plane, its element for the lengthening, and offset."""
        drawn = [self.draw(members), self.draw(members)]
        centres, extras = self.rows[drawn], self.extra[drawn]
        weights = np.ones(2, np.float32)
        for _ in range(min(DRAWS, len(members))):
            row = self.draw(members)
            weighted = weights * self.distances(centres, extras, row)
            if weighted[0] == weighted[1] or np.isnan(weighted).any():
                continue
            nearer = int(weighted[1] < weighted[0])
            grown = weights[nearer] + np.float32(1)
            keep, share = weights[nearer] / grown, np.float32(1) / grown
            centres[nearer] = centres[nearer] * keep + self.rows[row] * share
            extras[nearer] = extras[nearer] * keep + self.extra[row] * share
            weights[nearer] = grown
        if self.metric in ("cosine", "dot"):
            return self.between_directions(centres, extras)
        return self.between_points(centres)

    def distances(self, centres: Floats, extras: Floats, row: int) -> Floats:
        """From both centres: by angle for cosine and dot."""
        if self.metric == "manhattan":
            return reference.manhattan(self.rows[row], centres)
        if self.metric == "euclidean":
            return reference.squared_euclidean(self.rows[row], centres)
        products = lane_sum(centres * self.rows[row]) + extras * self.extra[row]
        lengths = np.sqrt(lane_sum(centres * centres) + extras * extras) * self.row_length
        return np.where(lengths > 0, np.float32(1) - products / lengths, np.float32(1))

    def between_directions(self, centres: Floats, extras: Floats) -> tuple[Floats, np.float32, np.float32] | None:
        ends = [unit_or_none(np.append(centre, extra)) for centre, extra in zip(centres, extras, strict=True)]
        if ends[0] is None or ends[1] is None:
            return None
        plane = unit_or_none(ends[0].astype(np.float64) - ends[1].astype(np.float64))
        return None if plane is None else (plane[:-1], plane[-1], np.float32(0))

    def between_points(self, centres: Floats) -> tuple[Floats, np.float32, np.float32] | None:
        plane = unit_or_none(centres[0].astype(np.float64) - centres[1].astype(np.float64))
        if plane is None:
            return None
        middle = centres[0] * np.float32(0.5) + centres[1] * np.float32(0.5)
        offset = np.float32(0) - lane_sum(plane * middle)
        return (plane, np.float32(0), offset) if np.isfinite(offset) else None


def parted(members: list[int], second: np.ndarray) -> tuple[list[int], list[int]]:
    """Both sides in the order of the members."""
    pairs = list(zip(members, second, strict=True))
    return [row for row, up in pairs if not up], [row for row, up in pairs if up]


def halves(members: list[int]) -> tuple[list[int], list[int]]:
    ordered = sorted(members)
    return ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]


def leaf_capacity(metric: str, dim: int) -> int:
    """Two thirds of the rows that Annoy's node of this metric has room for; all of them where they are few."""
    most = 3 + 2 * -(-dim // 64) if metric == "hamming" else dim + (3 if metric == "dot" else 2)
    return most if most <= 32 else max(32, most // 3 * 2)


def grow_forest(metric: str, dim: int, rows: np.ndarray, trees: int, seed: int) -> Trees:
    """Grow so many trees over rows as a caller gives them."""
    stored = reference_file.stored(metric, rows)
    grown = Trees()
    with np.errstate(all="ignore"):
        for tree in range(trees):
            builder = TreeBuilder(metric, dim, stored, seed, tree, grown)
            grown.roots.append(builder.grow(list(range(len(stored)))))
    return grown


def sections(metric: str, trees: Trees) -> list[tuple[int, bytes]]:
    """The sections of docs/format.md after rows."""
    bounds = np.cumsum([0, *map(len, trees.leaves)])
    splits = [
        (18, np.array(trees.offsets, "<f4").tobytes()),
        (19, b"".join(plane.astype("<f4").tobytes() for plane in trees.planes)),
    ]
    if metric == "hamming":
        splits = [(22, np.array(trees.bits, "<u4").tobytes())]
    return [
        (16, np.array(trees.roots, "<u4").tobytes()),
        (17, np.array(trees.children, "<u4").tobytes()),
        *splits,
        (20, bounds.astype("<u8").tobytes()),
        (21, np.array([row for leaf in trees.leaves for row in leaf], "<u4").tobytes()),
    ]


def forest_file(
    metric: str,
    dim: int,
    rows: np.ndarray,
    seed: int,
    trees: int | None = None,
    effort: int | None = None,
    code_bits: int = 0,
    ids: reference_file.Ids = None,
) -> bytes:
    """The file of a forest of these rows. Without `code_bits` so few rows have no codes."""
    trees = trees or DEFAULT_TREES
    capacity = leaf_capacity(metric, dim)
    effort = effort or trees * max(capacity, DEFAULT_ROWS_PER_TREE)
    grown = grow_forest(metric, dim, rows, trees, seed)
    parameters, contents = [(1, trees), (2, capacity), (3, effort)], sections(metric, grown)
    if code_bits == 0:
        parameters.append((4, 0))
    else:
        if effort < trees * len(rows):
            raise ValueError("the reference knows codes only where a search gathers every row")
        more = reference_codes.parts(metric, dim, reference_file.stored(metric, rows), grown.planes)
        parameters += more[0]
        contents += more[1]
    contents = [(reference_file.ROWS, reference_file.stored_rows(metric, rows)), *contents]
    return reference_file.index_file("forest", metric, dim, len(rows), seed, parameters, contents, ids)
