"""`./ci/run record` records this computer with a wheel of a folder, and with nothing else."""

import argparse
import base64
import hashlib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from stand_in_wheels import stand_in

import constann._core
from ci import platforms, record
from constann import comparison


def asked(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    record.add_arguments(parser)
    return parser.parse_args(words)


def wheel_of_what_is_installed(folder: Path) -> Path:
    """Pack the package that the tests run with as a wheel again."""
    found = distribution("constann")
    tag = next(line.partition(": ")[2] for line in str(found.read_text("WHEEL")).splitlines() if line.startswith("Tag"))
    path = folder / f"constann-{found.version}-{tag}.whl"
    record_lines = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        information = f"constann-{found.version}.dist-info"
        for each in found.files or []:
            name = each.as_posix()
            if name.startswith(("constann/", f"{information}/")) and not name.endswith(
                ("/RECORD", "/INSTALLER", ".pyc")
            ):
                content = each.locate().read_bytes()
                digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                record_lines.append(f"{name},sha256={digest},{len(content)}\n")
                archive.writestr(name, content)
        archive.writestr(f"{information}/RECORD", "".join(record_lines) + f"{information}/RECORD,,\n")
    return path


@pytest.mark.slow
def test_the_recording_is_of_the_wheel_in_the_folder(tmp_path: Path) -> None:
    wheels = tmp_path / "dist"
    wheels.mkdir()
    wheel_of_what_is_installed(wheels)
    made = tmp_path / "recordings" / "here.rec"
    assert record.run(asked(str(made), "--wheels", str(wheels))) == 0
    found = comparison.read(made, "here")
    assert found.workload["name"] == "standard"
    extension = hashlib.sha256(Path(constann._core.__file__).read_bytes()).hexdigest()
    assert found.facts["libraries"]["_core"]["sha256"] == extension


def test_without_a_wheel_for_this_computer_nothing_is_recorded(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stand_in(tmp_path, platforms.load_targets()["linux-x86_64"], "27")
    (tmp_path / "constann-9.9.tar.gz").write_bytes(b"an sdist is not built in its place")
    assert record.run(asked(str(tmp_path / "here.rec"), "--wheels", str(tmp_path))) == 2
    assert "No matching distribution found for constann" in capfd.readouterr().err
    assert not (tmp_path / "here.rec").exists()
