"""How far numbers of a stage may lie apart and still agree. Constann itself promises none; others need some."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from constann.comparison import numbers

__all__ = ["Tolerance", "Tolerances"]


@dataclass(frozen=True)
class Tolerance:
    """Numbers agree whose difference is at most atol + rtol * |larger|, or that are at most `ulp` floats apart."""

    atol: float = 0.0
    rtol: float = 0.0
    ulp: int = 0

    def __bool__(self) -> bool:
        return bool(self.atol or self.rtol or self.ulp)

    def __str__(self) -> str:
        parts = [f"{name} {value:g}" for name in ("atol", "rtol", "ulp") if (value := getattr(self, name))]
        return ", ".join(parts) or "every bit"

    def agree(self, a: npt.NDArray[np.generic], b: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
        """Return for each element whether the two agree; NaN agrees with NaN alone."""
        same = numbers.same_bits(a, b)
        if not self or a.dtype.kind not in "f":
            return same
        near = numbers.ulp_distance(a, b) <= self.ulp if self.ulp else np.zeros(a.shape, np.bool_)
        with np.errstate(all="ignore"):
            wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
            allowed = self.atol + self.rtol * np.maximum(np.abs(wide_a), np.abs(wide_b))
            near |= np.isfinite(wide_a) & np.isfinite(wide_b) & (np.abs(wide_a - wide_b) <= allowed)
        return same | near | (np.isnan(a) & np.isnan(b))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Tolerances:
    """A tolerance for every stage: of all patterns that fit its name the last one counts."""

    rules: Sequence[tuple[str, str, float]] = field(default_factory=tuple)
    """(stage or pattern, "atol" or "rtol" or "ulp", value)."""

    def of(self, stage: str) -> Tolerance:
        """Return the tolerance of a stage."""
        values: dict[str, float] = {}
        for pattern, kind, value in self.rules:
            if fnmatchcase(stage, pattern) or stage == pattern:
                values[kind] = value
        return Tolerance(values.get("atol", 0.0), values.get("rtol", 0.0), int(values.get("ulp", 0)))
