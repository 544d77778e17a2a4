"""The real Annoy in a process of its own: makes files, opens files, and says what it answers, as JSON.

Runs in an environment that has annoy and nothing else; tests/unit/test_annoy_files.py makes that and reads this. Reads
one request from standard input: metric, f, n, search_k, queries, and either vectors (items, null for a hole), trees and
seed, to build and save `file`; or nothing more, to load it.
"""

import json
import sys

from annoy import AnnoyIndex


def main() -> None:
    """Answer the request."""
    request = json.load(sys.stdin)
    index = AnnoyIndex(request["f"], request["metric"])
    if "vectors" in request:
        for item, vector in enumerate(request["vectors"]):
            if vector is not None:
                index.add_item(item, vector)
        index.set_seed(request["seed"])
        # One thread: with more, Annoy sometimes takes the last tree for two when it loads the file.
        index.build(request["trees"], **({"n_jobs": 1} if request["jobs"] else {}))
        index.save(request["file"])
    else:
        index.load(request["file"])
    found = [
        index.get_nns_by_vector(query, request["n"], search_k, include_distances=True)
        for query in request["queries"]
        for search_k in request["search_k"]
    ]
    answer = {"found": found, "items": index.get_n_items(), "vector": index.get_item_vector(index.get_n_items() - 1)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
