"""Recommend items that a user has not seen: an index of items, and a map of what each user has seen."""

import numpy as np

import constann
from constann.datasets import gloss

items = gloss()  # 250 items as vectors of their meaning
index = constann.build(items.vectors, metric="cosine")
seen = (
    constann.PairMap()
)  # how often (user, item); seen = constann.PairMap.from_csv("log.csv") counts the lines of a log


def recommend(user: int, k: int) -> list[int]:
    """Return the items nearest to the one that a user looked at most, without those that the user knows."""
    known = seen.items(user)
    favourite = known[np.argmax(seen.values(user))]
    ids, _ = index.search(items.vectors[favourite], k, exclude=known)
    return [int(item) for item in ids[0]]


user = 4_000_000_000
seen.add(user, [3, 3, 17])
for _ in range(3):
    offered = recommend(user, k=4)
    print("; ".join(items.words[item] for item in offered))
    assert not seen.contains(user, offered).any()
    seen.add(user, offered[:2])  # the user looks at two of them

seen.save("seen.pairs")
seen = constann.PairMap.open("seen.pairs")  # mapped, and takes updates
seen.add(user, 3)
print(f"item 3 was seen {seen.get(user, 3)} times, item 200 {seen.get(user, 200)} times; {len(seen)} pairs")
