"""Annoy's walk through a file, once more in float64: which items it must gather, and which by a hair's breadth.

Annoy takes leaves by falling priority, the smallest signed margin on the way to them, until it has gathered search_k
items. Items whose best leaf's priority is that of the last leaf, but for rounding, may be gathered or not; and of
those gathered, the nearest by distance, but for rounding, are returned. Never import constann here.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROUNDING = 2.0**-19  # of a float32 sum of a few hundred terms, to the product of both lengths; seen: 2^-22
# Where a node keeps its children, its offset and its vector, in bytes (hamming is exact, and is not walked here)
LAYOUTS = {"angular": (4, None, 12), "euclidean": (8, 4, 16), "manhattan": (8, 4, 16), "dot": (4, 12, 16)}


@dataclass(frozen=True)
class Gathered:
    """What a search of so many items gathers: `sure` whatever the rounding, `perhaps` by the rounding of a margin."""

    sure: set[int]
    perhaps: set[int]


class Walk:
    """The nodes of a file."""

    def __init__(self, path: Path, metric: str, f: int) -> None:
        self.metric, self.f, self.content = metric, f, path.read_bytes()
        self.children, self.offset, self.vector = LAYOUTS[metric]
        self.size = self.vector + 4 * f
        self.capacity = (self.size - self.children) // 4
        self.nodes = len(self.content) // self.size
        self.items = self.count(self.nodes - 1)

    def count(self, node: int) -> int:
        return int(struct.unpack_from("<i", self.content, node * self.size)[0])

    def numbers(self, node: int, count: int) -> tuple[int, ...]:
        return struct.unpack_from(f"<{count}i", self.content, node * self.size + self.children)

    def vector_of(self, node: int) -> np.ndarray:
        at = node * self.size + self.vector
        return np.frombuffer(self.content, "<f4", self.f, at).astype(np.float64)

    def roots(self) -> list[int]:
        """The copies at the end, one for each tree; the last tree's own root comes before them."""
        first = self.nodes - 1
        while self.count(first - 1) == self.items:
            first -= 1
        return list(range(first + 1, self.nodes))

    def margin(self, node: int, query: np.ndarray) -> float:
        offset = 0.0
        if self.offset is not None:
            offset = struct.unpack_from("<f", self.content, node * self.size + self.offset)[0]
        product = float(self.vector_of(node) @ query)
        return product + (offset * offset if self.metric == "dot" else offset)

    def leaves(self, query: np.ndarray) -> Iterator[tuple[float, tuple[int, ...]]]:
        """Every leaf: its priority and its items."""
        open_nodes = [(np.inf, root) for root in self.roots()]
        while open_nodes:
            priority, node = open_nodes.pop()
            count = self.count(node)
            if count == 1 and node < self.items:
                yield priority, (node,)
            elif count <= self.capacity:
                yield priority, self.numbers(node, count)
            else:
                margin = self.margin(node, query)
                below, above = self.numbers(node, 2)
                open_nodes += [(min(priority, -margin), below), (min(priority, margin), above)]

    def gathered(self, query: np.ndarray, search_k: int) -> Gathered:
        """The items of the best leaves, until they are so many."""
        leaves = sorted(self.leaves(query), key=lambda leaf: -leaf[0])
        ends = np.cumsum([len(items) for _, items in leaves])
        last = leaves[min(int(np.searchsorted(ends, search_k)), len(leaves) - 1)][0]
        near = ROUNDING * max(1.0, float(np.linalg.norm(query)))  # planes have unit length, or less
        sure = {item for priority, items in leaves for item in items if priority > last + near}
        all_near = {item for priority, items in leaves for item in items if priority >= last - near}
        return Gathered(sure, all_near - sure)

    def scores(self, query: np.ndarray) -> tuple[np.ndarray, float]:
        """What items are ordered by, and how far rounding may move it."""
        rows = np.array([self.vector_of(item) for item in range(self.items)])
        lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
        if self.metric == "angular":
            return 2 - 2 * (rows @ query) / np.where(lengths > 0, lengths, 1), 4 * ROUNDING
        if self.metric == "dot":
            return -(rows @ query), ROUNDING * float(lengths.max())
        differences = rows - query
        scores = np.abs(differences).sum(1) if self.metric == "manhattan" else (differences**2).sum(1)
        return scores, ROUNDING * float(scores.max())


def unexplained(walk: Walk, query: np.ndarray, search_k: int, n: int, found: list[int]) -> str | None:
    """What in this answer no rounding explains; None where it is right but for near ties."""
    gathered = walk.gathered(query, search_k)
    scores, near = walk.scores(query)
    if strangers := set(found) - gathered.sure - gathered.perhaps:
        return f"items {sorted(strangers)} lie in no leaf that is visited"
    if (np.diff(scores[found]) < -near).any():
        return f"{found} are not in the order of their distances"
    farthest = scores[found].max() if len(found) == n else np.inf
    if missing := [item for item in gathered.sure - set(found) if scores[item] < farthest - near]:
        return f"items {missing} are nearer, and lie in leaves that are visited"
    return None


def is_near_tie(walk: Walk, query: np.ndarray, search_k: int, one: list[int], other: list[int]) -> bool:
    """Whether two answers differ in items that are gathered by rounding, or that are as near as each other."""
    scores, near = walk.scores(query)
    differing = set(one) ^ set(other)
    if differing & walk.gathered(query, search_k).perhaps:
        return True
    places = [(a, b) for a, b in zip(one, other, strict=True) if a != b]
    return all(abs(scores[a] - scores[b]) <= 2 * near for a, b in places)
