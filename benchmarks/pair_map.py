"""constann.PairMap at full size: memory and time to load, grow, save, open and serve, beside a dict and maps of PyPI.

    python benchmarks/pair_map.py [--pairs 86867031] [--folder FOLDER] [--dict-pairs N] [--only NAME...] [--json FILE]

Each contender runs in a process of its own, which prints what the system says of its memory; a step of the loops is
given in time on the CPU. The data are made by
rule, in the shape of a log of learners and questions: 13,523 items, one user for each 220 pairs with a long-tailed
number of items each, a pair once. The file has the first item of every user, then the second, and so on: each block
touches all users. `dict` and `pypocketmap` run with fewer pairs where --dict-pairs says so, and their memory is then
also given for the full number.
"""

import argparse
import importlib.metadata
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from measuring import cpu_name

FULL = 86_867_031
STEPS = 2_500_000
ITEMS = 13_523
BLOCK = 1_000_000
MIB = 1 << 20


class Block(NamedTuple):
    """Some of the pairs."""

    users: np.ndarray
    items: np.ndarray
    values: np.ndarray


class Rule:
    """The pairs, by number of pairs alone."""

    def __init__(self, pairs: int) -> None:
        self.pairs = pairs
        generator = np.random.default_rng(7)
        self.count = max(1, pairs // 220)
        weights = generator.lognormal(0, 1.6, self.count)
        counts = np.clip((weights * pairs / weights.sum()).astype(np.int64), 1, ITEMS)
        while (lacking := pairs - int(counts.sum())) != 0:  # clipping left too few, rounding too many
            able = np.flatnonzero(counts < ITEMS if lacking > 0 else counts > 1)[: abs(lacking)]
            counts[able] += np.sign(lacking)
        self.counts = np.sort(counts)[::-1]
        self.users = (np.arange(self.count, dtype=np.uint64) * np.uint64(2_654_435_761) % np.uint64(1 << 32)).astype(
            np.uint32
        )
        self.first = generator.integers(0, ITEMS, self.count)
        self.step = generator.integers(1, 100, self.count)  # ITEMS has no divisor below 100

    def pairs_of(self, users: np.ndarray, rank: np.ndarray | int) -> Block:
        items = (self.first[users] + self.step[users] * rank) % ITEMS * 97
        return Block(self.users[users], items.astype(np.uint32), ((users + rank) % 5 + 1).astype(np.int16))

    def blocks(self) -> Iterator[Block]:
        """All pairs, the first item of every user first."""
        waiting: list[Block] = []
        for rank in range(int(self.counts[0])):
            active = int(np.searchsorted(-self.counts, -rank, side="left"))
            waiting.append(self.pairs_of(np.arange(active), rank))
            if sum(len(each.users) for each in waiting) >= BLOCK:
                yield Block(*map(np.concatenate, zip(*waiting, strict=True)))
                waiting = []
        if waiting:
            yield Block(*map(np.concatenate, zip(*waiting, strict=True)))

    def new_pairs(self, number: int) -> Iterator[Block]:
        """Pairs of known users with items that nobody has had."""
        for start in range(0, number, BLOCK // 10):
            which = np.arange(start, min(number, start + BLOCK // 10))
            yield Block(
                self.users[which * 7919 % self.count],
                (2_000_000 + which // self.count).astype(np.uint32),
                np.ones(len(which), np.int16),
            )

    def steps(self, number: int) -> Iterator[tuple[list[int], list[int]]]:
        """Users and items of a serving loop: nine of ten pairs are known."""
        generator = np.random.default_rng(8)
        for start in range(0, number, BLOCK // 10):
            size = min(BLOCK // 10, number - start)
            users = generator.integers(0, self.count, size)
            known = self.pairs_of(users, (generator.random(size) * self.counts[users]).astype(np.int64))
            items = np.where(generator.random(size) < 0.9, known.items, 3_000_000 + generator.integers(0, 1000, size))
            yield known.users.tolist(), items.tolist()


def memory(field: str) -> float:
    """MiB that the system counts for this process: VmRSS now, VmHWM at most."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(field))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


class Report(dict[str, Any]):
    """What a contender did, step by step."""

    def measure(self, name: str, work: Callable[[], Any]) -> Any:
        forget_peak()
        start, start_on_cpu = time.perf_counter(), time.process_time()
        result = work()
        self[name] = {
            "seconds": time.perf_counter() - start,
            "seconds on the CPU": time.process_time() - start_on_cpu,
            "rss": memory("VmRSS"),
            "peak": memory("VmHWM"),
        }
        return result


def serve(rule: Rule, step: Callable[[int, int], object]) -> None:
    for users, items in rule.steps(STEPS):
        for user, item in zip(users, items, strict=True):
            step(user, item)


def loaded_pair_map(rule: Rule, folder: Path, dtype: str) -> Report:
    from constann import PairMap

    report, path = Report(start=memory("VmRSS")), folder / f"{dtype}.pairs"
    pairs = report.measure(
        "load", lambda: PairMap.from_csv(folder / "pairs.csv", value="value", dtype=dtype, repeated="last")
    )
    assert len(pairs) == rule.counts.sum()
    report["nbytes"] = pairs.nbytes / MIB
    sample = rule.pairs_of(np.arange(0, rule.count, 3), 0)
    assert (pairs.get(sample.users, sample.items) == sample.values).all()
    report.measure("save", lambda: pairs.save(path))
    report["fingerprint"] = pairs.fingerprint
    report.measure("1 % more", lambda: [pairs.add(*block) for block in rule.new_pairs(len(pairs) // 100)])

    def step(user: int, item: int) -> None:
        pairs.get(user, item)
        pairs.add(user, item, 1)

    report.measure("loop", lambda: serve(rule, step))
    report.measure("loop of 1000s", lambda: serve_by_thousands(rule, pairs))
    return report


def serve_by_thousands(rule: Rule, pairs: Any) -> None:
    for users, items in rule.steps(STEPS):
        for start in range(0, len(users), 1000):
            some = users[start : start + 1000], items[start : start + 1000]
            pairs.get(*some)
            pairs.add(*some)


def opened_pair_map(rule: Rule, folder: Path, dtype: str) -> Report:
    from constann import PairMap

    report = Report(start=memory("VmRSS"))
    pairs = report.measure("open", lambda: PairMap.open(folder / f"{dtype}.pairs"))
    report.measure("read all", lambda: [pairs.get(block.users, block.items) for block in rule.blocks()])
    report.measure("1 % more", lambda: [pairs.add(*block) for block in rule.new_pairs(len(pairs) // 100)])
    user = int(rule.users[5])
    report.measure("items of a user, 10,000 times", lambda: [len(pairs.items(user)) for _ in range(10_000)])
    return report


def filled_pair_map(rule: Rule, folder: Path, dtype: str) -> Report:
    """From arrays, by users in falling order: another way to the same bytes."""
    from constann import PairMap

    report, pairs = Report(start=memory("VmRSS")), PairMap(dtype)

    def fill() -> None:
        for start in range(rule.count, 0, -2_000):
            some = np.arange(max(0, start - 2_000), start)
            users = np.repeat(some, rule.counts[some])
            first = np.repeat(np.cumsum(rule.counts[some]) - rule.counts[some], rule.counts[some])
            pairs.set(*rule.pairs_of(users, np.arange(len(users)) - first))
        pairs.compact()

    report.measure("load", fill)
    report["fingerprint"] = pairs.fingerprint
    return report


def at_once(rule: Rule, folder: Path, dtype: str) -> Report:
    """All pairs in one call, whose arrays are counted in what was there before."""
    from constann import PairMap

    users, items = np.empty(rule.pairs, np.uint32), np.empty(rule.pairs, np.uint32)
    values, end = np.empty(rule.pairs, np.int16), 0
    for block in rule.blocks():
        some = slice(end, end := end + len(block.users))
        users[some], items[some], values[some] = block
    report, pairs = Report(start=memory("VmRSS")), PairMap(dtype)
    report.measure("load", lambda: pairs.add(users, items, values))
    report.measure("compact", pairs.compact)
    report["fingerprint"] = pairs.fingerprint
    return report


def key_of(user: int, item: int) -> int:
    """The pair as one int64: items are small here, so that no key is negative."""
    return (item << 32) | user


def keys_of(block: Block) -> list[int]:
    return ((block.items.astype(np.int64) << 32) | block.users).tolist()


def filled_dict(rule: Rule, folder: Path, dtype: str) -> Report:
    report, pairs = Report(start=memory("VmRSS")), dict[int, int]()

    def fill() -> None:
        for block in rule.blocks():
            pairs.update(zip(keys_of(block), block.values.tolist(), strict=True))

    def step(user: int, item: int) -> None:
        key = key_of(user, item)
        pairs[key] = pairs.get(key, 0) + 1

    report.measure("load", fill)
    report.measure("1 % more", lambda: [pairs.update(dict.fromkeys(keys_of(b), 1))
                                        for b in rule.new_pairs(len(pairs) // 100)])  # fmt: skip
    report.measure("loop", lambda: serve(rule, step))
    return report


def filled_cykhash(rule: Rule, folder: Path, dtype: str) -> Report:
    import cykhash

    report, pairs = Report(start=memory("VmRSS")), cykhash.Int64toInt64Map()

    def fill() -> None:
        for block in rule.blocks():
            for key, value in zip(keys_of(block), block.values.tolist(), strict=True):
                pairs[key] = value

    def step(user: int, item: int) -> None:
        key = key_of(user, item)
        pairs[key] = pairs[key] + 1 if key in pairs else 1

    def more() -> None:
        for block in rule.new_pairs(len(pairs) // 100):
            for key in keys_of(block):
                pairs[key] = 1

    report.measure("load", fill)
    report.measure("1 % more", more)
    report.measure("loop", lambda: serve(rule, step))
    return report


def filled_pypocketmap(rule: Rule, folder: Path, dtype: str) -> Report:
    import pypocketmap

    report, pairs = Report(start=memory("VmRSS")), pypocketmap.create(pypocketmap.int64_, pypocketmap.int64_)

    def fill() -> None:
        for block in rule.blocks():
            for key, value in zip(keys_of(block), block.values.tolist(), strict=True):
                pairs[key] = value

    def step(user: int, item: int) -> None:
        key = key_of(user, item)
        pairs[key] = pairs.get(key, 0) + 1

    report.measure("load", fill)
    report.measure("loop", lambda: serve(rule, step))
    return report


CONTENDERS: dict[str, tuple[Callable[[Rule, Path, str], Report], str]] = {
    "PairMap int16, from CSV": (loaded_pair_map, "int16"),
    "PairMap float32, from CSV": (loaded_pair_map, "float32"),
    "PairMap int16, from arrays": (filled_pair_map, "int16"),
    "PairMap int16, in one call": (at_once, "int16"),
    "PairMap int16, opened": (opened_pair_map, "int16"),
    "cykhash Int64toInt64Map": (filled_cykhash, ""),
    "pypocketmap int64 to int64": (filled_pypocketmap, ""),
    "dict": (filled_dict, ""),
}


def write_csv(rule: Rule, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.csv

    names = ["user", "item", "value"]
    schema = pa.schema([("user", pa.uint32()), ("item", pa.uint32()), ("value", pa.int16())])
    with pa.csv.CSVWriter(path, schema) as writer:
        for block in rule.blocks():
            writer.write_batch(pa.record_batch(list(block), names=names))


def tell(name: str, pairs: int, full: int, report: dict[str, Any]) -> None:
    print(f"{name}: {pairs:,} pairs; {report['start']:.0f} MiB before")
    for step, figures in report.items():
        if not isinstance(figures, dict):
            continue
        busy = figures["seconds on the CPU"]
        line = f"  {step:30} {figures['seconds']:7.2f} s, {busy:7.2f} on the CPU"
        line += f"   RSS {figures['rss']:5.0f} MiB   peak {figures['peak']:5.0f} MiB"
        if step.startswith("loop"):
            line += f"   {busy / STEPS * 1e6:.2f} us a step"
        if step == "load" and pairs != full:
            line += f"   (x {full / pairs:.1f}: {figures['rss'] * full / pairs:.0f} MiB)"
        print(line)
    for fact in ("nbytes", "fingerprint"):
        if fact in report:
            print(f"  {fact}: {report[fact] if fact == 'fingerprint' else format(report[fact], '.0f') + ' MiB'}")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=FULL)
    parser.add_argument("--dict-pairs", type=int, help="for the dict and pypocketmap")
    parser.add_argument("--folder", type=Path, help="for the CSV and the saved maps; kept")
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        work, dtype = CONTENDERS[asked.child]
        print(json.dumps(work(Rule(asked.pairs), asked.folder, dtype)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (csv := folder / "pairs.csv").exists():
            write_csv(Rule(asked.pairs), csv)
        versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in ("constann", "numpy", "pyarrow"))
        print(f"{cpu_name()}; Python {sys.version.split()[0]}, {versions}; {csv.stat().st_size / MIB:.0f} MiB of CSV")
        reports = {}
        for name in asked.only:
            small = asked.dict_pairs if name.startswith(("dict", "pypocketmap")) else None
            pairs = small or asked.pairs
            command = [sys.executable, __file__, "--child", name, "--pairs", str(pairs), "--folder", str(folder)]
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            if run.returncode != 0:
                print(f"{name}: {run.stderr.strip().splitlines()[-1]}")
                continue
            reports[name] = json.loads(run.stdout)
            tell(name, pairs, asked.pairs, reports[name])
        if asked.json:
            asked.json.write_text(json.dumps(reports, indent=1))


if __name__ == "__main__":
    main()
