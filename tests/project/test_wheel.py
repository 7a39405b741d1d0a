"""The artefact: a wheel, installed away from the source, does what the checkout does."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

COMMANDS = """
import softlabels
from softlabels_cli.main import cli

print(softlabels.__file__)
for line in (
    "train-teacher digits --model mlp:width=8,depth=1 --steps 20 --out teacher",
    "generate digits --teacher run:teacher --out labels --encoding topk:3",
    "verify labels --deep",
    "train-student labels --student mlp:width=8,depth=1 --steps 20 --out student",
    "compare run:teacher run:student --data digits --json",
):
    cli.main(line.split(), "softlabels", standalone_mode=False)
"""


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory) -> Path:
    """The wheel, built from the checkout."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(root)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """bin/ of a fresh environment that holds the wheel, and the dependencies of this one by path."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True, capture_output=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    # Plain paths only: the .pth files of this environment, the editable install's among them, are not followed.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def test_a_wheel_holds_the_packages_and_the_digits_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.startswith(("cli/", "data/", "tests/", "docs/", "benchmarks/"))]
    tops = {name.split("/")[0] for name in names}
    assert {"softlabels", "softlabels_cli"} == {top for top in tops if not top.endswith(".dist-info")}
    assert "softlabels/sources/bundled/digits.parquet" in names
    assert "softlabels/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_installed_command_line_runs_in_an_empty_folder(installed, tmp_path):
    """The script once, and the commands after each other in one process of that environment, which starts once."""

    def run(*command):
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert "softlabels, version" in run(installed / "softlabels", "--version")
    printed = run(installed / "python", "-c", COMMANDS)
    assert str(installed.parent) in printed
    assert "complete and sealed" in printed
    assert '"run:student"' in printed, "a row of the JSON of compare"
