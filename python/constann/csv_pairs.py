"""Reads columns of a CSV file block by block with pyarrow, for PairMap.from_csv. It holds no more than a few blocks."""

import os
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv

__all__ = ["read_blocks"]

_BLOCK = 1 << 20  # bytes of the file
_FIRST_LINE = 2  # after the line of names
Block = tuple[int, Any, Any, Any]


def read_blocks(
    source: str | os.PathLike[str] | BinaryIO, columns: tuple[str, str, str | None], delimiter: str, floats: bool
) -> Iterator[Block]:
    """Give (line of the first row, users, items, values) of each block, 1 for all values where there is no such column.

    Raises
    ------
    ValueError
        A column is missing, a field is empty or no number (its line is named), or the file is no such CSV.
    """
    wanted = [name for name in columns if name is not None]
    types = dict.fromkeys(wanted, pa.int64())
    if floats and columns[2] is not None:
        types[columns[2]] = pa.float64()
    # One thread: only then does pyarrow know the line of a bad field.
    options = {
        "read_options": pa.csv.ReadOptions(block_size=_BLOCK, use_threads=False),
        "parse_options": pa.csv.ParseOptions(delimiter=delimiter, ignore_empty_lines=False),
        "convert_options": pa.csv.ConvertOptions(column_types=types, include_columns=wanted),
    }
    line = _FIRST_LINE
    place = source if hasattr(source, "read") else os.fspath(source)
    try:
        with pa.csv.open_csv(place, **options) as reader:
            for batch in reader:
                yield line, *_numbers(batch, columns, line)
                line += len(batch)
    except pa.ArrowKeyError as error:
        raise ValueError(f"there is no such column: {error.args[0]}") from None
    except pa.ArrowInvalid as error:
        raise ValueError(re.sub(r"\bRow #(\d+)", r"line \1", str(error))) from None
    finally:
        pa.default_memory_pool().release_unused()  # it would keep some hundred MiB


def _numbers(batch: Any, columns: tuple[str, str, str | None], line: int) -> Iterator[Any]:
    for name in columns:
        if name is None:
            yield 1
            continue
        column = batch.column(name)
        if column.null_count:
            empty = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
            raise ValueError(f"line {line + empty}: {name} is empty")
        yield column.to_numpy()
