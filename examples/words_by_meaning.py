"""Words by meaning: for dictionary entries, those of the nearest meaning; string ids, a filter, a saved file."""

from pathlib import Path

import numpy as np

import constann

data = Path(__file__).resolve().parents[1] / "tests" / "conformance" / "data"


def lines(name: str) -> list[str]:
    """Read what stands after the tab of each line."""
    return [line.split("\t")[1] for line in (data / name).read_text(encoding="utf-8").splitlines()]


entries, questions = lines("gloss-labels.tsv"), lines("gloss-query-labels.tsv")
ids = [f"{number} {entry}" for number, entry in enumerate(entries)]  # an entry may be there twice
index = constann.build(np.load(data / "gloss-vectors.npy"), metric="cosine", kind="forest", ids=ids)
index.save("words.constann")

index = constann.open("words.constann")
not_these = [label for label in ids if " of " in label]  # a filter: entries without the word "of"
found, distances = index.search(np.load(data / "gloss-queries.npy")[:3], k=3, exclude=not_these)
for question, labels, far in zip(questions, index.labels(found), distances, strict=False):
    print(question)
    for label, distance in zip(labels, far, strict=True):
        print(f"  {distance:.3f}  {label}")
