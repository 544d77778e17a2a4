"""Writes a comparison as JSON: docs/comparing.md has the schema. Floats carry their bits, for JSON may round them."""

import math
import struct
from typing import Any

from constann.comparison.comparing import Comparison, Difference, StageResult
from constann.comparison.neighbours import Neighbours
from constann.comparison.text import verdict

__all__ = ["SCHEMA_VERSION", "as_json", "number"]

SCHEMA_VERSION = 1
_SHOWN = 100


def number(value: float | None) -> dict[str, Any] | None:
    """Write a float as its value (null where JSON has none) and its bits as a float64."""
    if value is None:
        return None
    bits = struct.pack(">d", value).hex()
    return {"value": value if math.isfinite(value) else None, "bits": bits}


def as_json(found: Comparison) -> dict[str, Any]:
    """Return the comparison as JSON's kinds of value."""
    return {
        "schema": SCHEMA_VERSION,
        "agrees": found.agrees,
        "verdict": verdict(found),
        "machines": [
            {"label": each.label, "stages": len(each.stages), "workload": each.workload, "environment": each.facts}
            for each in found.machines
        ],
        "groups": [list(group) for group in found.groups],
        "first": None if found.first is None else found.stages.index(found.first),
        "matrix": found.matrix,
        "parting": [
            {"fact": each.fact, "values": [list(values) for values in each.values], "score": number(each.score)}
            for each in found.parting
        ],
        "stages": [_stage(each) for each in found.stages],
    }


def _stage(stage: StageResult) -> dict[str, Any]:
    tolerance = stage.tolerance
    return {
        "name": stage.name,
        "agrees": stage.agrees,
        "equal_bits": stage.equal_bits,
        "tolerance": {"atol": number(tolerance.atol), "rtol": number(tolerance.rtol), "ulp": tolerance.ulp},
        "groups": [list(group) for group in stage.groups],
        "differences": [_difference(each) for each in stage.differences],
        "neighbours": [_neighbours(each) for each in stage.neighbours],
    }


def _value(value: Any) -> Any:
    return number(value) if isinstance(value, float) else value


def _difference(each: Difference) -> dict[str, Any]:
    return {
        "kind": each.kind,
        "machines": list(each.machines),
        "sentence": each.sentence,
        "element": None if each.element is None else list(each.element),
        "values": None if each.values is None else [_value(value) for value in each.values],
        "bits": None if each.bits is None else list(each.bits),
        "ulp": each.ulp,
        "relative_error": number(each.relative),
        "differing": each.differing,
        "elements": each.elements,
        "rows": each.rows,
        "largest_ulp": each.largest_ulp,
        "largest_relative_error": number(each.largest_relative),
        "largest_delta": number(each.largest_delta),
        "histogram": [{"ulp": name, "elements": count} for name, count in each.histogram],
    }


def _neighbours(each: Neighbours) -> dict[str, Any]:
    return {
        "machines": list(each.machines),
        "distances": "canonical" if each.canonical else "recorded",
        "tie_swaps": each.tie_swaps,
        "near_ties": each.near_ties,
        "true_misses": each.true_misses,
        "queries": each.queries,
        "overlap": number(each.overlap),
        "recall": None if each.recall is None else [number(value) for value in each.recall],
        "found": [
            {
                "query": one.query,
                "rank": one.rank,
                "ids": list(one.ids),
                "distances": [number(value) for value in one.distances],
                "kind": one.kind,
            }
            for one in each.found[:_SHOWN]
        ],
    }
