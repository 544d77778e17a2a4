"""Index files written byte by byte from the tables of docs/format.md: what tests expect of saving and fingerprints.

Never import constann here.
"""

import hashlib
import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import reference

FORMAT_VERSION = 0
ARITHMETIC_REVISION = 0
BUILDER_REVISION = 0

KINDS = {"exact": 1, "forest": 2, "graph": 3}
METRICS = {"cosine": 1, "euclidean": 2, "manhattan": 3, "dot": 4, "hamming": 5}
FLOAT32 = 1
BITS = 4
ROW_NUMBERS, INT64, STRINGS = 0, 1, 2
ROWS, ID_NUMBERS, ID_BOUNDS, ID_TEXT, ID_ORDER = 1, 2, 3, 4, 5
DIGEST_LENGTH = 32
Ids = Sequence[int] | Sequence[str] | None


def encoded_header(
    kind: str,
    metric: str,
    dim: int,
    rows: int,
    seed: int,
    parameters: Sequence[tuple[int, int]],
    table: bytes,
    total: int,
    ids: int = ROW_NUMBERS,
) -> bytes:
    """The header without its digest; `table` holds the encoded sections."""
    bits = metric == "hamming"
    stride = -(-dim // 64) * 8 if bits else -(-dim // 16) * 16 * 4
    fields = struct.pack("<8s4I", b"CONSTANN", FORMAT_VERSION, ARITHMETIC_REVISION, BUILDER_REVISION, 0)
    fields += struct.pack("<4I", KINDS[kind], METRICS[metric], BITS if bits else FLOAT32, ids)
    fields += struct.pack("<2I3Q", dim, stride, rows, seed, total)
    fields += struct.pack("<2I", len(parameters), len(table) // 56)
    return fields + b"".join(struct.pack("<2IQ", tag, 0, value) for tag, value in parameters) + table


def index_file(
    kind: str,
    metric: str,
    dim: int,
    rows: int,
    seed: int,
    parameters: Sequence[tuple[int, int]],
    sections: Sequence[tuple[int, bytes]],
    ids: Ids = None,
) -> bytes:
    """A whole index file, whose sections begin with the rows. Its fingerprint is `fingerprint` of it."""
    sections = [*sections[:1], *id_sections(ids), *sections[1:]]
    table, body = b"", b""
    start = end = 80 + 16 * len(parameters) + 56 * len(sections) + DIGEST_LENGTH
    for tag, content in sections:
        offset = -(-end // 64) * 64
        body += bytes(offset - end) + content
        end = offset + len(content)
        table += struct.pack("<2I2Q", tag, 0, offset, len(content)) + hashlib.sha256(content).digest()
    header = encoded_header(kind, metric, dim, rows, seed, parameters, table, end, id_kind(ids))
    assert len(header) + DIGEST_LENGTH == start
    return header + hashlib.sha256(header).digest() + body


def id_kind(ids: Ids) -> int:
    """What the header says of ids."""
    if ids is None:
        return ROW_NUMBERS
    return STRINGS if isinstance(ids[0], str) else INT64


def id_sections(ids: Ids) -> list[tuple[int, bytes]]:
    """The sections of ids: nothing for row numbers."""
    if ids is None:
        return []
    if id_kind(ids) == INT64:
        keys: list[int] | list[bytes] = [int(each) for each in ids]
        content = [(ID_NUMBERS, np.array(keys, "<i8").tobytes())]
    else:
        keys = [str(each).encode() for each in ids]
        bounds = np.cumsum([0, *map(len, keys)]).astype("<u4")
        content = [(ID_BOUNDS, bounds.tobytes()), (ID_TEXT, b"".join(keys))]
    order = sorted(range(len(keys)), key=lambda row: keys[row])
    rising = order == list(range(len(keys)))
    return [*content, (ID_ORDER, b"" if rising else np.array(order, "<u4").tobytes())]


def fingerprint(file: bytes) -> str:
    """The digest that follows the header, in hex."""
    parameters, sections = struct.unpack_from("<2I", file, 72)
    end = 80 + 16 * parameters + 56 * sections
    return file[end : end + DIGEST_LENGTH].hex()


def tags(file: bytes) -> list[int]:
    """The sections of a file."""
    parameters, sections = struct.unpack_from("<2I", file, 72)
    return [int(struct.unpack_from("<I", file, 80 + 16 * parameters + 56 * i)[0]) for i in range(sections)]


def revisions(file: bytes) -> dict[str, int]:
    """The revisions a file was made at."""
    names = ("format_version", "arithmetic_revision", "builder_revision")
    return dict(zip(names, struct.unpack_from("<3I", file, 8), strict=True))


def stored(metric: str, rows: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Rows as they are kept: unit length for cosine, bits padded to whole 64-bit words, floats to 16."""
    if metric == "hamming":
        return np.pad(rows.astype(np.uint8), [(0, 0), (0, -rows.shape[1] % 8)])
    return (reference.unit(rows) if metric == "cosine" else reference.padded(rows)).astype("<f4")


def stored_rows(metric: str, rows: npt.NDArray[np.generic]) -> bytes:
    """The content of section rows."""
    return stored(metric, rows).tobytes()


def exact_file(metric: str, dim: int, rows: npt.NDArray[np.generic], seed: int, ids: Ids = None) -> bytes:
    """The file of an exact index of these rows."""
    sections = [(ROWS, stored_rows(metric, rows))]
    return index_file("exact", metric, dim, len(rows), seed, [], sections, ids)
