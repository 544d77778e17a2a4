"""Annoy's own README program with its import changed; then the same index as a Constann file."""

import random

import constann
from constann.annoy import AnnoyIndex  # was: from annoy import AnnoyIndex

f = 40
t = AnnoyIndex(f, "angular")
for i in range(1000):
    v = [random.gauss(0, 1) for z in range(f)]
    t.add_item(i, v)
t.build(10)
t.save("test.ann")

u = AnnoyIndex(f, "angular")
u.load("test.ann")
print(u.get_nns_by_item(0, 5))

# Files that Annoy wrote become Constann's: the same trees, searched faster, checked, with f and metric inside.
index = constann.annoy.read("test.ann", f, "angular")
index.save("test.constann")
ids, distances = constann.open("test.constann").search(index.vectors([0]), k=5)
print(ids[0])
