"""Writes the smallest script that shows the first difference again, with its arrays. It runs nothing.

Arrays come from recordings and are written as .npy; no text of a recording becomes code, names only as literals.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from constann.comparison.comparing import Comparison, StageResult
from constann.comparison.differences import Difference
from constann.comparison.reading import Recorded

__all__ = ["reproduce"]

Array = npt.NDArray[Any]

_SCRIPT = '''\
"""Computes the stage {stage!r} here, and says with which machine this one agrees. Written by constann compare."""

from pathlib import Path

import numpy as np
{imports}

HERE = Path(__file__).parent
LABELS = {labels!r}
given = {{path.stem: np.load(path, allow_pickle=False) for path in HERE.glob("*.npy")}}


def compute():
{code}


def bits(array):
    return np.ascontiguousarray(array).tobytes().hex()


recorded = [given[f"machine-{{number}}"] for number in (1, 2)]
for label, array in zip(LABELS, recorded):
    print(f"{{label}}: {{array.ravel()[:8]}} bits {{bits(array)[:128]}}")
here = np.asarray(compute(), recorded[0].dtype)
print(f"here: {{here.ravel()[:8]}} bits {{bits(here)[:128]}}")
same = [label for label, array in zip(LABELS, recorded) if bits(array) == bits(here)]
print("this machine agrees with " + (", ".join(same) or "neither"))
'''


@dataclass
class _Recipe:
    """How the stage is computed from arrays that both machines have alike."""

    arrays: dict[str, Array] = field(default_factory=dict)
    code: str = "    raise NotImplementedError('compute the stage from given[\"before\"] here, as your pipeline does')"
    imports: str = ""
    row: int | None = None
    """The only row of the stage that is computed; None: all."""


def reproduce(found: Comparison, folder: Path) -> list[Path]:
    """Write the script and its arrays for the first difference.

    Parameters
    ----------
    found
        Machines that differ.
    folder
        Made where it is not there; must be empty.

    Returns
    -------
    list of Path
        What was written, the script first.

    Raises
    ------
    ValueError
        All agree, the arrays of the difference were not kept, or the folder is not empty.
    """
    stage = found.first
    if stage is None:
        raise ValueError("all machines agree: there is nothing to reproduce")
    difference = stage.differences[0]
    sides = [found.machines[each].stages.get(stage.name) for each in difference.machines]
    arrays = [each.array if each is not None else None for each in sides]
    if arrays[0] is None or arrays[1] is None:
        raise ValueError(f"the arrays of {stage.name!r} are not in both recordings: {difference.sentence}")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{os.fspath(folder)} is not empty")
    recipe = _recipe(found, stage, difference)
    written = [folder / "reproduce.py"]
    for number, array in enumerate((arrays[0], arrays[1]), 1):
        part = array if recipe.row is None or array.ndim == 0 else array[recipe.row : recipe.row + 1]
        recipe.arrays[f"machine-{number}"] = part
    for name, array in recipe.arrays.items():
        written.append(folder / f"{name}.npy")
        np.save(written[-1], array)
    labels = [found.labels[each] for each in difference.machines]
    script = _SCRIPT.format(stage=stage.name, imports=recipe.imports, labels=labels, code=recipe.code)
    written[0].write_text(script, encoding="utf-8")
    return written


def _recipe(found: Comparison, stage: StageResult, difference: Difference) -> _Recipe:
    first, second = (found.machines[each] for each in difference.machines)
    if first.workload is not None and second.workload == first.workload:
        part, _, rest = stage.name.partition("/")
        makers = {"rows": _of_rows, "kernels": _of_kernels}
        maker = makers.get(part, _of_index)
        if made := maker(first, stage.name, rest, difference.row or 0):
            return made
    before = found.stages[: found.stages.index(stage)]
    for each in reversed(before):
        kept = first.stages.get(each.name)
        if each.agrees and kept is not None and kept.array is not None:
            return _Recipe({"before": kept.array})
    return _Recipe()


def _array(machine: Recorded, name: str) -> Array | None:
    stage = machine.stages.get(name)
    return None if stage is None else stage.array


def _of_rows(machine: Recorded, name: str, rest: str, row: int) -> _Recipe | None:
    """Recompute one row as an index keeps it."""
    parts = rest.split("/")
    of_queries = parts[-1] == "queries"
    owner, metric = parts[0], parts[1]
    source = f"input/{owner}/signs" if metric == "hamming" else f"input/{owner}"
    given = _array(machine, f"{source}/{'queries' if of_queries else 'vectors'}")
    if given is None:
        return None
    code = (
        f'    index = constann.build(given["input"], {metric!r}, kind="exact")\n'
        "    return index._stored_rows(np.arange(len(index)))"
    )
    return _Recipe({"input": given[row : row + 1]}, code, "\nimport constann", row)


def _of_kernels(machine: Recorded, name: str, rest: str, row: int) -> _Recipe | None:
    """Call one kernel with one query and the rows."""
    owner, metric, how = rest.split("/")
    rows, queries = (_array(machine, f"rows/{owner}/{metric}{end}") for end in ("", "/queries"))
    if rows is None or queries is None:
        return None
    code = (
        "    from constann.workload import kernel_answers\n\n"
        f'    return kernel_answers(given["queries"], given["rows"], {metric!r}, many={how == "many"})'
    )
    return _Recipe({"rows": rows, "queries": queries[row : row + 1]}, code, "\nimport constann  # noqa", row)


def _of_index(machine: Recorded, name: str, rest: str, row: int) -> _Recipe | None:
    """Build the index and search it."""
    parts = rest.split("/")
    if len(parts) < 3:
        return None
    owner, kind, metric = parts[:3]
    source = f"input/{owner}/signs" if metric == "hamming" else f"input/{owner}"
    vectors, queries = _array(machine, f"{source}/vectors"), _array(machine, f"{source}/queries")
    plain = _array(machine, f"input/{owner}/vectors")
    if vectors is None or queries is None or plain is None:
        return None
    dim = plain.shape[1] if source.endswith("/signs") else None
    k = (machine.workload or {}).get("k", 10)
    code = (
        "    from constann.recorder import Recording\n    from constann.workload import Set, record_index\n\n"
        '    given_set = Set("set", given["vectors"], given["queries"])\n'
        f"    stages = record_index(given_set, {kind!r}, {metric!r}, dim={dim!r}, k={int(k)!r})\n"
        f"    return stages[{'/'.join([name.partition('/')[0], *parts[3:]])!r}]"
    )
    return _Recipe({"vectors": vectors, "queries": queries}, code, "")
