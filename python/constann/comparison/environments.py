"""On which facts of their environments the groups of agreeing machines part, the most telling first."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from constann.comparison.reading import Recorded

__all__ = ["Parting", "facts_of", "parting_facts"]

_ABSENT = "-"
# Libraries whose business is numbers: of several that part the groups alike, they are named first.
_COMPUTING = re.compile(
    r"blas|lapack|mkl|jpeg|avcodec|swscale|avutil|opencv|cv2|png|webp|tiff|onnx|torch|tflite|tensor|faiss|annoy|hnsw|"
    r"usearch|voyager|_core|multiarray|libm\b|cuda|dnnl|imaging|tokeniz"
)


@dataclass(frozen=True)
class Parting:
    """A fact and what it is on the machines of each group."""

    fact: str
    values: tuple[tuple[str, ...], ...]
    """For each group its values, each once."""
    score: float
    """1 where it parts the groups exactly and is one value in each."""

    @property
    def exact(self) -> bool:
        """Whether no value occurs in two groups."""
        return all({*a}.isdisjoint(b) for i, a in enumerate(self.values) for b in self.values[:i])


def facts_of(machine: Recorded, stage: str | None = None) -> dict[str, str]:
    """Return a machine's facts one by one: each CPU feature, package and library is one; absent ones are left out.

    Parameters
    ----------
    machine
        What was recorded.
    stage
        At which the floating-point mode is taken; None: that of the whole run.
    """
    found: dict[str, str] = {}
    for name, value in machine.facts.items():
        if name.endswith("cpu_features") and isinstance(value, str):
            owner = name.removesuffix("cpu_features").replace("_", " ")
            found.update({f"{owner}CPU feature {feature}": "yes" for feature in value.split()})
        elif isinstance(value, dict):
            singular = {"libraries": "library", "packages": "package", "variables": "variable"}.get(name, name)
            found.update({f"{singular} {key}": _said(each) for key, each in value.items()})
        elif value != "":
            found[name.replace("_", " ")] = str(value)
    if stage is not None and stage in machine.stages and machine.stages[stage].floating_point:
        found["floating point"] = machine.stages[stage].floating_point
    return found


def _said(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    name = " ".join(filter(None, (value.get("soname"), value.get("version"))))
    return f"{name} (SHA-256 {value['sha256'][:12]})" if value.get("sha256") else name


def parting_facts(machines: Sequence[Recorded], groups: Sequence[Sequence[int]], stage: str | None) -> list[Parting]:
    """Find the facts that tell something of the groups, the most telling first.

    The score is what the fact tells of the group, less half of what it differs within groups, as shares of entropy.
    """
    group_of = {machine: number for number, group in enumerate(groups) for machine in group}
    if len(groups) < 2:
        return []
    known = {machine: facts_of(machines[machine], stage) for machine in group_of}
    names = {name for facts in known.values() for name in facts}
    found = []
    whole = _entropy(list(group_of.values()))
    for name in names:
        values = {machine: facts.get(name, _ABSENT) for machine, facts in known.items()}
        both = _entropy([(values[each], group_of[each]) for each in group_of])
        told = whole + _entropy(list(values.values())) - both
        if told <= 1e-9:
            continue
        score = (told - 0.5 * (both - whole)) / whole
        of_groups = tuple(tuple(dict.fromkeys(values[each] for each in group)) for group in groups)
        found.append(Parting(name, of_groups, round(score, 6)))
    return sorted(found, key=lambda each: (-each.score, _rank(each.fact), each.fact))


def _entropy(values: Sequence[Any]) -> float:
    return -sum(n / len(values) * math.log2(n / len(values)) for n in Counter(values).values())


def _rank(fact: str) -> int:
    """Order facts that tell as much as each other: what is likelier to change numbers first."""
    if fact in ("floating point", "planted faults", "tuned for"):
        return 0
    if fact in ("kernels", "compiler"):
        return 1
    if fact.startswith("library ") and _COMPUTING.search(fact.lower()):
        return 2
    order = ("variable ", "numpy", "package ", "c library", "constann CPU feature ", "CPU feature ", "threads")
    for number, start in enumerate(order):
        if fact.startswith(start):
            return 3 + number
    return 11 if fact.startswith("library ") else 10
