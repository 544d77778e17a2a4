"""The links of a graph made once more, node by node, from the rules that cpp/graph states: which nodes lead where.

Nodes are numbers here, and how near they are is asked of a `Measure`. Slow, for a few thousand nodes. Never import
constann here.
"""

from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

LINKS, UPPER_LINKS = 32, 16
ROOM = 40  # links of a node while building: pruned to LINKS where there would be more
POOL, UPPER_POOL = 88, 160  # nearest nodes that a new one chooses among, and one of the upper levels
LARGEST_BATCH = 50  # one in so many of all nodes
UPPER_SHARE, SMALLEST_LEVEL = 32, 64  # levels hold 1/32 of the nodes, 1/1024 and so on, while there are 64 of them
LEAST_FIRST, MOST_FIRST = 16, 64  # all looked at: as many as are followed, within these
FILLED = 16  # places of a new node that are filled whatever is taken, where measures are products
FOLLOWED_AT_ONCE = 4  # nodes whose links are followed before any of what they lead to
ENTRIES = 2  # nodes of a level that lead to the one below
Answers = Sequence[int]  # for each node: the smaller the nearer, below 2^32
Lists = list[list[int]]  # for each node those it leads to
Key = tuple[int, int]


@dataclass
class Measure:
    """How far nodes are from a node."""

    from_node: Callable[[int], Answers]
    # (answer between candidate and taken node, answer between candidate and node, whether on an upper level)
    covers: Callable[[int, int, bool], bool]
    products: bool = False  # answers are of inner products
    bias: Answers | None = None  # of each node, which its answers hold besides: see cpp/graph/walk.hpp

    def __post_init__(self) -> None:
        self.from_node = cache(self.from_node)


@dataclass
class Links:
    """What the sections links and upper_links hold; the smallest level first."""

    lowest: Lists
    upper: list[Lists] = field(default_factory=list)


def key(answers: Answers, node: int) -> Key:
    """Nodes are ordered by the answer but for its last bit, then by their number."""
    return answers[node] >> 1, node


def keys(answers: Answers, nodes: Sequence[int]) -> list[Key]:
    return sorted(key(answers, node) for node in nodes)


def upper_sizes(nodes: int) -> list[int]:
    """How many nodes each upper level has, the smallest first."""
    sizes = []
    while (nodes := nodes // UPPER_SHARE) >= SMALLEST_LEVEL:
        sizes.append(nodes)
    return sizes[::-1]


def walk(
    links: Lists, answers: Answers, entries: Sequence[int], pool: int, most_followed: int | None = None
) -> list[Key]:
    """Follow links from the nearest node on until those of the nearest in the pool were followed; return the pool."""
    most = pool if most_followed is None else most_followed
    near = keys(answers, entries)[:pool]
    met, followed = set(entries), set[int]()
    while chosen := follow_next([node for _, node in near[:most]], followed):
        followed.update(chosen)
        for neighbour in (neighbour for node in chosen for neighbour in links[node]):
            if neighbour in met:
                continue
            met.add(neighbour)
            found = key(answers, neighbour)
            if len(near) < pool or found < near[-1]:
                insort(near, found)
                del near[pool:]
    return near


def follow_next(near: Sequence[int], followed: set[int]) -> list[int]:
    """Whose links a walk follows at once: those of the nearest of all alone, of others several."""
    if near and near[0] not in followed:
        return [near[0]]
    return [node for node in near if node not in followed][:FOLLOWED_AT_ONCE]


def descend(upper: list[Lists], answers: Answers, nodes: int, first_nodes: int) -> list[int]:
    """Where a walk on the lowest level begins: the best of the first nodes, or of what upper levels lead to."""
    first = MOST_FIRST if len(upper) > 1 else min(max(first_nodes, LEAST_FIRST), MOST_FIRST)
    best = keys(answers, range(min(nodes, first)))[:ENTRIES]
    for level in upper:
        best = walk(level, answers, [node for _, node in best], ENTRIES)
    return [node for _, node in best]


def prune(measure: Measure, node: int, candidates: Sequence[Key], most: int, filled: int, upper: bool) -> list[int]:
    """Take of the candidates, nearest first, those that no taken one is much nearer to than the node is.

    By inner products others follow, until so many are taken.
    """
    taken: list[int] = []
    for half, candidate in candidates:
        if len(taken) == most:
            break
        between = measure.from_node(candidate)
        distance = 2 * half
        if measure.bias is not None:
            distance += measure.bias[node] - measure.bias[candidate]
        if not any(measure.covers(between[other], distance, upper) for other in taken):
            taken.append(candidate)
    if measure.products:
        others = [candidate for _, candidate in candidates if candidate not in taken]
        taken += others[: max(filled - len(taken), 0)]
    return taken


class Builder:
    """Links nodes 0, 1, … in batches."""

    def __init__(self, measure: Measure, nodes: int) -> None:
        self.measure, self.nodes = measure, nodes
        self.lists: Lists = [[] for _ in range(nodes)]
        self.upper: list[Lists] = []
        self.upper_now = False  # the batch linked last is of the upper levels: so is one that is kept after it

    def build(self) -> Links:
        sizes = upper_sizes(self.nodes)
        linked = 1
        while linked < self.nodes:
            if linked in sizes:
                self.upper.append(joined(self.measure, self.kept(linked, UPPER_LINKS), UPPER_LINKS))
            end = min(self.nodes, linked + min(linked, max(self.nodes // LARGEST_BATCH, 1)))
            end = min([end, *(size for size in sizes if size > linked)])
            self.upper_now = bool(sizes) and end <= sizes[-1]
            self.link_batch(linked, end)
            linked = end
        return Links(joined(self.measure, self.kept(self.nodes, LINKS), LINKS), self.upper)

    def link_batch(self, begin: int, end: int) -> None:
        """Each looks among the nodes before the batch alone; then these get their links back, by rising source."""
        for node in range(begin, end):
            answers = self.measure.from_node(node)
            pool = UPPER_POOL if self.upper_now else POOL
            near = walk(self.lists, answers, descend(self.upper, answers, begin, LEAST_FIRST), pool)
            self.lists[node] = prune(self.measure, node, near, LINKS, FILLED, self.upper_now)
        back: dict[int, list[int]] = {}
        for node in range(begin, end):
            for target in self.lists[node]:
                back.setdefault(target, []).append(node)
        for target, sources in back.items():
            all_links = self.lists[target] + sources
            if len(all_links) > ROOM:
                near = keys(self.measure.from_node(target), all_links)
                all_links = prune(self.measure, target, near, LINKS, LINKS, self.upper_now)
            self.lists[target] = all_links

    def kept(self, nodes: int, degree: int) -> Lists:
        """The lists of the first nodes, nearest first, pruned where they are longer."""
        kept = []
        for node in range(nodes):
            near = keys(self.measure.from_node(node), self.lists[node])
            most = [other for _, other in near]
            longer = len(near) > degree
            kept.append(prune(self.measure, node, near, degree, degree, self.upper_now) if longer else most)
        return kept


class Joiner:
    """Makes every node be reached from node 0, and node 0 from every node."""

    def __init__(self, measure: Measure, lists: Lists, degree: int) -> None:
        self.measure, self.lists, self.degree = measure, lists, degree
        self.needed: list[set[int]] = [set() for _ in lists]  # places of links that others are reached by

    def join(self) -> None:
        marked = self.spread(0, set())
        for node in range(len(self.lists)):
            if node not in marked:
                self.put(self.leader_to(node, marked), node)
                self.spread(node, marked)
        sources: Lists = [[] for _ in self.lists]
        for source, links in enumerate(self.lists):
            for target in links:
                sources[target].append(source)
        marked = self.spread_back(0, set(), sources)
        while len(marked) < len(self.lists):
            for node in range(len(self.lists)):
                if node not in marked and self.place(node) is not None:
                    self.put(node, next(other for other in [*self.met(node), 0] if other in marked))
                    self.spread_back(node, marked, sources)

    def spread(self, start: int, marked: set[int]) -> set[int]:
        """Mark what can be reached from `start`; each first link to a node is needed."""
        marked.add(start)
        queue = [start]
        for node in queue:
            for place, target in enumerate(self.lists[node]):
                if target not in marked:
                    marked.add(target)
                    self.needed[node].add(place)
                    queue.append(target)
        return marked

    def spread_back(self, start: int, marked: set[int], sources: Lists) -> set[int]:
        """Mark what `start` can be reached from."""
        marked.add(start)
        queue = [start]
        for node in queue:
            for source in sources[node]:
                if source not in marked:
                    marked.add(source)
                    self.needed[source].update(at for at, other in enumerate(self.lists[source]) if other == node)
                    queue.append(source)
        return marked

    def place(self, node: int) -> int | None:
        """Where a new link can go: behind the others, or instead of the last that is not needed."""
        if len(self.lists[node]) < self.degree:
            return len(self.lists[node])
        return max(set(range(self.degree)) - self.needed[node], default=None)

    def put(self, node: int, target: int) -> None:
        place = self.place(node)
        assert place is not None
        self.lists[node][place : place + 1] = [target]
        self.needed[node].add(place)

    def leader_to(self, node: int, marked: set[int]) -> int:
        """Which marked node gets a link to the node: one with a free place, the nearest or else the first."""
        met, every = [other for other in self.met(node) if other in marked], sorted(marked)
        free = [other for other in [*met, *every] if len(self.lists[other]) < self.degree]
        return free[0] if free else next(other for other in [*met, *every] if self.place(other) is not None)

    def met(self, node: int) -> list[int]:
        """What a walk to the node finds."""
        answers = self.measure.from_node(node)
        found = walk(self.lists, answers, descend([], answers, len(self.lists), POOL), POOL)
        return [other for _, other in found]


def joined(measure: Measure, lists: Lists, degree: int) -> Lists:
    Joiner(measure, lists, degree).join()
    return lists


def build(measure: Measure, nodes: int) -> Links:
    """The links of all levels."""
    return Builder(measure, nodes).build()


def as_bytes(lists: Lists, degree: int) -> bytes:
    """Lists as sections hold them: so many u32 for each node, the free ones 2^32 - 1."""
    table = np.full((len(lists), degree), 0xFFFFFFFF, "<u4")
    for node, links in enumerate(lists):
        table[node, : len(links)] = links
    return table.tobytes()
