"""The keys of every JSON document are those that docs/glossary.md lists."""

import json
import re

import pytest

from tests.cli.calls import call

TEACHER = "import torch\n\n\ndef logits(inputs):\n    return inputs.float().flatten(1)[:, 10:20]\n"
GENERATE = ("generate", "digits", "--teacher", "python:keys_teacher:logits", "-q")
TRAIN = ("train-student", "labels", "--data", "digits", "--student", "mlp:width=8", "--steps", 2, "--out", "run", "-q")
COMMANDS = {
    "generate": (*GENERATE, "--out", "labels"),
    "generate --dry-run": (*GENERATE, "--out", "labels", "--dry-run"),
    "train-student": TRAIN,
    "compare": ("compare", "run:run", "--data", "digits", "-q"),
    "plan": ("plan", "labels", "-q"),
    "inspect": ("inspect", "labels"),
    "inspect, of a run": ("inspect", "run"),
    "verify": ("verify", "labels", "-q"),
    "repair": ("repair", "labels", "-q"),
    "seal": ("seal", "labels"),
    "gc": ("gc", "labels"),
    "plot": ("plot", "run"),
    "merge": ("merge", "labels", "copy", "--out", "merged", "-q"),
    "describe": ("describe", "labels", "--license", "CC0-1.0"),
    "push": ("push", "labels", "copy", "-q"),
    "pull": ("pull", "labels", "pulled", "-q"),
}
"""A command by its row of the table; they run in this order, push before merge."""
ORDER = sorted(COMMANDS, key=lambda name: name == "merge")


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """The document of every command, run in a folder of their own."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "keys_teacher.py").write_text(TEACHER)
    return {name: json.loads(call(*COMMANDS[name], "--json", cwd=folder)) for name in ORDER}


@pytest.mark.parametrize("name", [*COMMANDS, "compare, a row"])
def test_the_glossary_lists_the_keys_of_a_document(root, documents, name):
    page = (root / "docs" / "glossary.md").read_text()
    table = dict(re.findall(r"^\| `?([a-z, -]+)`? \| (`schema_version`.*|`name`.*) \|$", page, re.MULTILINE))
    document = documents["compare"]["rows"][0] if name == "compare, a row" else documents[name]
    assert re.findall(r"`(\w+)`", table[name]) == list(document)
