"""Runs inside a machine of the gate: records the standard workload there and compares recordings of other machines.

It judges nothing; ci/recordings.py does. Writes compared.json and, for people, compared.html.

    python recordings.py --recordings FOLDER --output FOLDER
"""

import argparse
import json
from pathlib import Path

from constann import comparison, recorder, workload

HERE = "here"


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    own = recorder.Recording(HERE)
    workload.run(own, {"name": "standard"}, None)
    own.write(options.output / "here.rec")
    here = comparison.read(options.output / "here.rec", HERE)
    found, readable = [], [here]
    for path in sorted(options.recordings.glob("*.rec")):
        try:
            given = comparison.read(path, path.stem)
        except comparison.RecordingError as error:
            found.append({"file": path.name, "error": str(error)})
            continue
        readable.append(given)
        compared = comparison.as_json(comparison.compare([here, given]))
        facts = {"agrees": compared["agrees"], "verdict": compared["verdict"], "workload": given.workload}
        found.append({"file": path.name, "facts": given.facts, "stages": len(given.stages), **facts})
    if len(readable) > 1:
        page = comparison.html(comparison.compare(readable))
        (options.output / "compared.html").write_text(page, encoding="utf-8")
    answer = {"workload": here.workload, "stages": len(here.stages), "found": found}
    (options.output / "compared.json").write_text(json.dumps(answer, indent=1))


if __name__ == "__main__":
    main()
