"""Writes the files that the fuzzers start from: every kind of index, of ids and of Annoy's metrics, small.

python tests/fuzz/seeds.py FOLDER. Each begins with the byte that tells the fuzz target what it is.
"""

import struct
import sys
from pathlib import Path

import numpy as np

import constann
from constann import _core

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "files"
ANNOY_DIM = 5  # as fuzz_index.cpp takes it


def indexes() -> dict[str, bytes]:
    """Files of indexes and of maps of pairs, by name."""
    rows = np.random.default_rng(1).standard_normal((60, ANNOY_DIM)).astype(np.float32)
    made = {path.stem: path.read_bytes() for path in sorted(GOLDEN.glob("*.constann"))}
    for metric in ("cosine", "euclidean", "manhattan", "dot"):
        coded = constann.Forest(ANNOY_DIM, metric, trees=3, code_bits=7)
        coded.add(rows)
        coded.build()
        assert coded.code_bits == 7
        made[f"coded-{metric}"] = coded.to_bytes()
    many = np.random.default_rng(2).integers(-9, 10, (2200, ANNOY_DIM)).astype(np.float32)
    for metric, bits in (("cosine", 4), ("euclidean", 4), ("euclidean", 7), ("dot", 7), ("euclidean", 0)):
        some = many[: 2200 if metric == "cosine" else 300]  # the first has an upper level
        graph = constann.Graph(ANNOY_DIM, metric, effort=12, code_bits=bits)  # type: ignore[arg-type]
        graph.add(np.concatenate([some, some[:40]]))
        graph.build()
        made[f"graph-{metric}-{graph.code_bits}"] = graph.to_bytes()
    made["numbers"] = constann.build(rows, kind="forest", ids=np.arange(60)[::-1] * 7).to_bytes()
    made["strings"] = constann.build(rows, kind="exact", ids=[f"{i % 7} and {i}" for i in range(60)]).to_bytes()
    for dtype in ("int16", "float32"):
        pairs = constann.PairMap(dtype)
        pairs.set([0, 5, 5, 5, 7, 2**32 - 1], [1, 3, 4, 9, 0, 2**32 - 1], [1, -2, 3, 4, 5, 6])
        made[f"pairs-{dtype}"] = pairs.to_bytes()
    return made


def annoys() -> dict[str, bytes]:
    """Annoy files by name, their metric's number first: all items, some missing, and hamming as Annoy 1.15 has it."""
    made = {}
    for number, metric in enumerate(("cosine", "euclidean", "manhattan", "dot", "hamming"), start=1):
        for name, items in ((metric, range(40)), (f"{metric}-holes", range(1, 60, 3))):
            nodes = _core.AnnoyNodes(metric, ANNOY_DIM)
            for item in items:
                nodes.add_item(item, np.random.default_rng(item).integers(0, 2, ANNOY_DIM).astype(float).tolist())
            nodes.build(3, 1, 0)
            made[f"annoy-{name}"] = bytes([number]) + bytes(nodes.bytes())
    made["annoy-hamming-packed"] = bytes([5]) + packed_hamming()
    assert _core.AnnoyNodes("hamming", ANNOY_DIM, made["annoy-hamming-packed"][1:]).packed
    return made


def packed_hamming() -> bytes:
    """A file in the layout of Annoy 1.15: a count, two children, then one word without a gap; leaves of up to four."""
    items = 42
    nodes = [struct.pack("<iiiQ", 1, 0, 0, item % 32) for item in range(items)]

    def grow(members: list[int]) -> int:
        if len(members) == 1:
            return members[0]
        if len(members) <= 4:
            nodes.append(struct.pack("<5i", len(members), *members, *[0] * (4 - len(members))))
        else:
            children = [grow(members[: len(members) // 2]), grow(members[len(members) // 2 :])]
            nodes.append(struct.pack("<iiiQ", len(members), *children, len(members) % ANNOY_DIM))
        return len(nodes) - 1

    roots = [grow(list(range(items))[::step]) for step in (1, -1)]
    return b"".join(nodes + [nodes[root] for root in roots])


def write(folder: Path) -> list[Path]:
    """Write all, and return where."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in (annoys() | {name: b"\0" + file for name, file in indexes().items()}).items():
        paths.append(folder / name)
        paths[-1].write_bytes(content)
    return paths


if __name__ == "__main__":
    print("\n".join(map(str, write(Path(sys.argv[1])))))
