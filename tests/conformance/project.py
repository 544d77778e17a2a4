"""What every machine runs of a project with [tool.gate]: its workload, whose named arrays become a recording.

Runs with the project's wheel, numpy and constann's recorder.py beside it, in one process. It compares nothing.

    python project.py --project FOLDER --workload FILE.py:FUNCTION --output FOLDER
"""

import argparse
import importlib.util
import sys
from pathlib import Path


def main() -> None:
    """Run it; the recording is written last, and so only where all went well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project", type=Path, required=True)
    parser.add_argument("--workload", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--recorder", type=Path, required=True)
    options = parser.parse_args()
    file, _, function = options.workload.partition(":")
    recorder = load(options.recorder)
    arrays = getattr(load(options.project / file), function)()
    recording = recorder.Recording()
    for name, array in arrays.items():
        recording.stage(name, array)
    recording.write(options.output / "answers.rec")
    print(f"{len(arrays)} arrays")


def load(path: Path):
    """Import a file that is in no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
