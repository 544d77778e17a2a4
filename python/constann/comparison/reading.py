"""Reads recordings, and folders of .npy files. Any bytes at all end in a `Recorded` or a `RecordingError`.

Members are stored and never compressed, so that a file can hold no more than its own length; nothing is unpickled.
"""

import hashlib
import json
import os
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from constann import recorder

__all__ = ["Recorded", "RecordingError", "Stage", "read", "read_folder", "read_recording"]

Array = npt.NDArray[Any]
_MOST_STAGES = 100_000
_MOST_MEMBERS = 200_000
_MOST_CONTENTS = 64 << 20  # bytes of the description
_DTYPE = re.compile(r"\|b1|\|[iu]1|<[iu][248]|<f[248]|<U[1-9][0-9]{0,5}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MEMBER = re.compile(r"arrays/[0-9a-f]{64}")


class RecordingError(ValueError):
    """The file is no recording, is damaged, or is of another version; the text says what is wrong."""


@dataclass
class Stage:
    """One stage of one machine."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    sha256: str
    array: Array | None = None
    """All of it; None where it was too large to keep."""
    sample: Array | None = None
    """Evenly spaced rows of what was too large, each flat."""
    sample_step: int = 1
    blocks: list[str] = field(default_factory=list)
    """Digests of so many rows at a time, of what was too large."""
    block_rows: int = 0
    role: str | None = None
    of: dict[str, str | None] = field(default_factory=dict)
    """Of neighbours: the search's name, its metric, the stages of its vectors and queries."""
    floating_point: str = ""


@dataclass
class Recorded:
    """What one machine recorded."""

    label: str
    stages: dict[str, Stage]
    facts: dict[str, Any] = field(default_factory=dict)
    workload: dict[str, Any] | None = None


def read(path: str | os.PathLike[str], label: str | None = None) -> Recorded:
    """Read a recording, or a folder of .npy files named in the order of the stages.

    Raises
    ------
    RecordingError
        It is neither, or is damaged.
    OSError
        It cannot be opened.
    """
    path = Path(path)
    return read_folder(path, label) if path.is_dir() else read_recording(path, label)


def read_folder(path: Path, label: str | None = None) -> Recorded:
    """Read `1-pixels.npy`, `2-resized.npy`, ...: one stage each, in the order of their numbers, then names."""
    found = sorted(path.glob("*.npy"), key=lambda each: (_number(each.stem), each.stem))
    if not found:
        raise RecordingError(f"{path} holds no .npy files: stages are 1-pixels.npy, 2-resized.npy, ...")
    stages = {}
    for each in found:
        try:
            array = recorder.canonical(np.load(each, allow_pickle=False))
        except (ValueError, TypeError, EOFError) as error:
            raise RecordingError(f"{each}: {error}") from None
        digest = recorder.digest(array)
        stages[each.stem] = Stage(each.stem, array.dtype, array.shape, digest, array)
    return Recorded(label or path.name or str(path), stages)


def _number(stem: str) -> int:
    found = re.match(r"\d{1,9}", stem)
    return int(found[0]) if found else 1 << 60


def read_recording(path: Path, label: str | None = None) -> Recorded:
    """Read a file that `constann record` or `constann.recording` wrote, and check every digest."""
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            return _Reader(archive, os.fstat(file.fileno()).st_size).read(label or path.stem)
    except RecordingError as error:
        raise RecordingError(f"{path}: {error}") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise RecordingError(f"{path}: it is damaged: {error}") from None
    except Exception as error:  # zipfile meets hostile bytes with many kinds of error
        raise RecordingError(f"{path}: it is no recording, or it is damaged ({error})") from None


class _Reader:
    """One open archive, whose list of members has been checked."""

    def __init__(self, archive: zipfile.ZipFile, length: int) -> None:
        self._archive = archive
        members = archive.infolist()
        if len(members) > _MOST_MEMBERS:
            raise RecordingError(f"it has {len(members)} members: more than any recording")
        self._members = {each.filename: each for each in members}
        if len(self._members) != len(members):
            raise RecordingError("two of its members have the same name")
        for each in members:
            if each.filename != recorder.CONTENTS and not _MEMBER.fullmatch(each.filename):
                raise RecordingError(f"it has a member that no recording has: {each.filename[:80]!r}")
            if each.compress_type != zipfile.ZIP_STORED or each.compress_size != each.file_size or each.flag_bits & 1:
                raise RecordingError(f"its member {each.filename[:80]} is compressed or encrypted: recordings are not")
        if sum(each.file_size for each in members) > length:
            raise RecordingError("its members are larger than the file")

    def read(self, label: str) -> Recorded:
        contents = self._contents()
        listed = contents.get("stages")
        if not isinstance(listed, list) or len(listed) > _MOST_STAGES:
            raise RecordingError("it lists no stages")
        stages: dict[str, Stage] = {}
        for entry in listed:
            stage = self._stage(entry)
            if stage.name in stages:
                raise RecordingError(f"two stages have the name {stage.name!r}")
            stages[stage.name] = stage
        facts, workload = contents.get("environment"), contents.get("workload")
        if not isinstance(facts, dict) or not isinstance(workload, dict | None):
            raise RecordingError("its environment is not written as it must be")
        name = contents.get("name")
        return Recorded(_printable(name) if isinstance(name, str) and name else label, stages, _clean(facts), workload)

    def _contents(self) -> dict[str, Any]:
        member = self._members.get(recorder.CONTENTS)
        if member is None:
            raise RecordingError(f"it is a zip file without {recorder.CONTENTS}: no recording")
        if member.file_size > _MOST_CONTENTS:
            raise RecordingError("its description is larger than any recording's")
        try:
            contents = json.loads(self._archive.read(member))
        except (ValueError, RecursionError) as error:
            raise RecordingError(f"its description is damaged: {error}") from None
        if not isinstance(contents, dict) or contents.get("format") != recorder.FORMAT:
            raise RecordingError("it does not say that it is a recording")
        if contents.get("version") != recorder.VERSION:
            raise RecordingError(
                f"it is a recording of version {contents.get('version')!r}, this constann reads {recorder.VERSION}: "
                "compare with a constann as new as the one that recorded"
            )
        return contents

    def _stage(self, entry: Any) -> Stage:
        if not isinstance(entry, dict):
            raise RecordingError("one of its stages is not written as it must be")
        name = entry.get("name")
        if not isinstance(name, str) or not 1 <= len(name) <= 200 or not name.isprintable():
            raise RecordingError(f"a stage has the name {str(name)[:80]!r}")
        dtype, shape, sha256 = entry.get("dtype"), entry.get("shape"), entry.get("sha256")
        if not isinstance(dtype, str) or not _DTYPE.fullmatch(dtype):
            raise RecordingError(f"stage {name!r} has elements of the kind {str(dtype)[:40]!r}, which none can have")
        if not isinstance(shape, list) or len(shape) > 32 or not all(_is_count(each) for each in shape):
            raise RecordingError(f"stage {name!r} has no shape")
        if not isinstance(sha256, str) or not _DIGEST.fullmatch(sha256):
            raise RecordingError(f"stage {name!r} has no digest")
        stage = Stage(name, np.dtype(dtype), tuple(shape), sha256)
        self._fill(stage, entry)
        return stage

    def _fill(self, stage: Stage, entry: dict[str, Any]) -> None:
        role, of = entry.get("role"), entry.get("of")
        if role in ("ids", "distances") and isinstance(of, dict):
            stage.role = role
            stage.of = {
                key: of[key] for key in ("name", "metric", "vectors", "queries") if isinstance(of.get(key), str)
            }
        mode = entry.get("floating_point")
        stage.floating_point = _printable(mode) if isinstance(mode, str) else ""
        kept = entry.get("kept")
        if kept == "whole":
            stage.array = self._array(stage, entry, stage.shape)
            if recorder.digest(stage.array) != stage.sha256:
                raise RecordingError(f"stage {stage.name!r} is damaged: its SHA-256 does not fit")
            return
        if kept not in ("sample", "digest") or not stage.shape:
            raise RecordingError(f"stage {stage.name!r} does not say what of it was kept")
        blocks, step, rows = entry.get("blocks"), entry.get("block_rows"), stage.shape[0]
        if not _is_count(step) or not step or not isinstance(blocks, list) or len(blocks) != -(-rows // step):
            raise RecordingError(f"stage {stage.name!r} lacks the digests of its rows")
        if not all(isinstance(each, str) and _DIGEST.fullmatch(each) for each in blocks):
            raise RecordingError(f"stage {stage.name!r} has a digest that is none")
        stage.blocks, stage.block_rows = blocks, step
        every = entry.get("sample_step")
        if kept == "sample":
            if not _is_count(every) or not every:
                raise RecordingError(f"stage {stage.name!r} does not say which rows its sample has")
            stage.sample_step = every
            stage.sample = self._array(stage, entry, (-(-rows // every), _product(stage.shape[1:])))

    def _array(self, stage: Stage, entry: dict[str, Any], shape: tuple[int, ...]) -> Array:
        """Read an array whose length is known before a byte of it is."""
        member = self._members.get(str(entry.get("member")))
        if member is None:
            raise RecordingError(f"the array of stage {stage.name!r} is missing")
        if member.file_size != _product(shape) * stage.dtype.itemsize:
            raise RecordingError(
                f"stage {stage.name!r} has {member.file_size} bytes, its shape {list(stage.shape)} needs "
                f"{_product(shape) * stage.dtype.itemsize}"
            )
        content = self._archive.read(member)
        if f"arrays/{hashlib.sha256(content).hexdigest()}" != member.filename:
            raise RecordingError(f"the array of stage {stage.name!r} is damaged: its SHA-256 does not fit")
        if stage.dtype.kind == "b" and content.translate(None, b"\0\1"):
            raise RecordingError(f"stage {stage.name!r} has bools that are neither 0 nor 1")
        if stage.dtype.kind == "U":
            points = np.frombuffer(content, "<u4")
            if points.size and int(points.max()) > 0x10FFFF:
                raise RecordingError(f"stage {stage.name!r} has text that is none")
        return np.frombuffer(content, stage.dtype).reshape(shape)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for each in shape:
        total *= each
    return total


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text[:2000])


def _clean(facts: dict[str, Any], depth: int = 0) -> dict[str, Any]:
    """Keep what facts may be: text, or dicts of it."""
    clean: dict[str, Any] = {}
    for name, value in list(facts.items())[:5000]:
        if isinstance(value, dict) and depth < 2:
            clean[_printable(name)] = _clean(value, depth + 1)
        elif isinstance(value, str):
            clean[_printable(name)] = _printable(value)
    return clean
