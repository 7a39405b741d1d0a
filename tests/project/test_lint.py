"""The checks every change must pass: style, types, layers."""

import re
import subprocess
import sys

import pytest

CHECKS = {
    "ruff check": ["-m", "ruff", "check", "."],
    "ruff format": ["-m", "ruff", "format", "--check", "."],
    "mypy --strict": ["-m", "mypy"],
    "import-linter": ["-c", "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"],
}


@pytest.mark.parametrize("name", CHECKS)
def test_the_code_passes(name, root):
    done = subprocess.run([sys.executable, *CHECKS[name]], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{name}\n{done.stdout}\n{done.stderr}"


def test_a_layer_that_reaches_upwards_is_caught(root, tmp_path):
    """The contract can fail: with the layers turned around, import-linter finds broken imports."""
    text = (root / "pyproject.toml").read_text()
    upwards, turned = re.subn(r'("softlabels\.errors :[^"]*",\n)\]', r'\1    "softlabels.store",\n]', text)
    assert turned == 1
    upwards = upwards.replace('"softlabels.store",\n', "", 1)
    config = tmp_path / "pyproject.toml"
    config.write_text(upwards)
    options = f"config_filename={str(config)!r}, no_cache=True"
    code = f"from importlinter.cli import lint_imports; raise SystemExit(lint_imports({options}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout
