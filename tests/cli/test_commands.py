"""The command line, as a user meets it: output, exit codes, and what the commands leave in the folder."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import softlabels as sl
from softlabels.store import DataRecord, TeacherRecord
from softlabels_cli.main import main
from tests.cli.calls import call
from tests.corpus import forging

TOP = Path(sl.__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{TOP}{os.pathsep}{TOP / 'cli'}", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, digits_path):
    """A folder with a teacher, a store and a student, made by the commands themselves."""
    folder = tmp_path_factory.mktemp("cli")
    call(
        "train-teacher",
        digits_path,
        "--model",
        "mlp:width=32,depth=1",
        "--steps",
        150,
        "--lr",
        "3e-3",
        "--out",
        "teacher",
        cwd=folder,
    )
    call(
        "generate",
        digits_path,
        "--teacher",
        "run:teacher",
        "--out",
        "labels",
        "--encoding",
        "topk:4",
        "--temperature",
        1,
        "--temperature",
        2,
        cwd=folder,
    )
    student = ("--student", "mlp:width=8,depth=1", "--steps", 100, "--out", "student")
    call("train-student", "labels", *student, "--data", digits_path, cwd=folder)
    return folder


def test_listings_and_checks_print_the_agreed_json(folder, digits_path):
    description = json.loads(call("inspect", "labels", "--json", cwd=folder))
    assert (description["rows"], description["heads"]["logits"]["temperatures"]) == (1797, [1.0, 2.0])
    report = json.loads(call("verify", "labels", "--deep", "--json", cwd=folder))
    assert (report["schema_version"], report["ok"], report["fix"], report["bad"]) == (1, True, None, [])
    assert (report["units"], report["rows"], report["missing_units"]) == (1, 1797, 0)
    compared = json.loads(call("compare", "run:teacher", "run:student", "--data", digits_path, "--json", cwd=folder))
    assert {"name", "metric", "value", "retention", "parameters", "flops", "latency_ms", "bytes"} <= set(
        compared["rows"][1]
    )
    sealed = json.loads(call("seal", "labels", "--json", cwd=folder))
    assert sealed["digest"] == description["snapshot"]["digest"]
    estimate = json.loads(
        call("generate", digits_path, "--teacher", "run:teacher", "--out", "x", "--dry-run", "--json", cwd=folder)
    )
    assert (estimate["rows"], estimate["encoding"]) == (1797, "dense:f16")
    assert not (folder / "x").exists()


def test_people_get_sentences_and_tables(folder, digits_path):
    assert "KL" in call("inspect", "labels", cwd=folder)
    assert "labels: 1 unit, 1,797 rows: complete and sealed" in call("verify", "labels", cwd=folder)
    table = call("compare", "run:teacher", "run:student", "--data", digits_path, cwd=folder)
    assert table.splitlines()[0].split()[:3] == ["model", "runs", "accuracy"]
    assert "about" in call("generate", digits_path, "--teacher", "run:teacher", "--out", "x", "--dry-run", cwd=folder)
    assert "0 units made now" in call(
        "generate", digits_path, "--teacher", "run:teacher", "--out", "labels", "--encoding", "topk:4",
        "--temperature", 1, "--temperature", 2, cwd=folder,
    )  # fmt: skip


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_shard_is_found_set_aside_and_made_again(folder, digits_path, tmp_path, damage):
    generate = [
        "generate",
        digits_path,
        "--teacher",
        f"run:{folder / 'teacher'}",
        "--out",
        "labels",
        "--unit-rows",
        500,
    ]
    call(*generate, cwd=tmp_path)
    digest = json.loads(call("inspect", "labels", "--json", cwd=tmp_path))["snapshot"]["digest"]
    shard = sorted((tmp_path / "labels" / "shards").rglob("*.zip"))[1]
    data = bytearray(shard.read_bytes())
    if damage == "truncate":
        shard.write_bytes(data[:-100])
    elif damage == "flip":
        data[3000] ^= 1
        shard.write_bytes(data)
    else:
        shard.unlink()
    report = json.loads(call("verify", "labels", "--json", cwd=tmp_path, code=3))
    assert [problem["unit"] for problem in report["bad"]] == [1]
    assert shard.name in report["bad"][0]["path"]
    train = ["train-student", "labels", "--student", "mlp", "--steps", 30, "--out", "student", "--data", digits_path]
    assert "softlabels repair" in call(*train, cwd=tmp_path, code=3)
    assert "1 unit set aside" in call("repair", "labels", cwd=tmp_path)
    call(*generate, cwd=tmp_path)
    assert json.loads(call("verify", "labels", "--deep", "--json", cwd=tmp_path))["ok"]
    description = json.loads(call("inspect", "labels", "--json", cwd=tmp_path))
    assert description["snapshot"]["number"] == 2
    assert description["snapshot"]["digest"] != digest
    call(*train, cwd=tmp_path)


def test_stores_are_merged_topped_up_and_cleaned(folder, digits_path, tmp_path):
    """In one process: what a shell would run, and what it prints."""
    rows = pq.read_table(digits_path)
    pq.write_table(rows.slice(0, 900), tmp_path / "a.parquet")
    pq.write_table(pa.concat_tables([rows.slice(800), rows.slice(900, 5)]), tmp_path / "b.parquet")
    teacher = ["--teacher", f"run:{folder / 'teacher'}", "--encoding", "topk:4", "--format", "parquet", "-q"]

    call("generate", tmp_path / "a.parquet", *teacher, "--out", tmp_path / "a")
    said = call("generate", tmp_path / "b.parquet", *teacher, "--out", tmp_path / "b", "--distinct", notes=True)
    assert "5 rows of" in said
    merged = json.loads(call("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "all", "--json", "-q"))
    assert merged["rows"] == 1797
    said = call("generate", digits_path, *teacher, "--out", tmp_path / "new", "--reuse", tmp_path / "all", notes=True)
    assert "1,797 rows copied from" in said
    assert "parquet, zstd; written by softlabels" in call("inspect", tmp_path / "new")
    assert json.loads(call("verify", tmp_path / "new", "--deep", "--json", "-q"))["ok"]
    (tmp_path / "new" / "tmp" / "0123").write_bytes(b"litter")
    assert "0 files" in call("gc", tmp_path / "new")
    assert "1 file, 6 B\n" in call("gc", tmp_path / "new", "--older-than", 0)
    assert "deleted" in call("gc", tmp_path / "new", "--older-than", 0, "--delete")
    assert not (tmp_path / "new" / "tmp" / "0123").exists()


def table(folder, name, **columns):
    pq.write_table(pa.table(columns), folder / name)
    return name


def wrong_uses(folder):
    """Arguments, exit code, and words the message must hold."""
    digits = "digits"
    teacher = ["--teacher", "run:teacher", "--out", "x"]
    train = ["--student", "mlp", "--out", "x", "--data", digits]
    table(folder, "unlabelled.parquet", image=[[1.0, 2.0]])
    table(folder, "empty.parquet", image=pa.array([], pa.list_(pa.float32(), 64)))
    table(folder, "two.parquet", image=[np.zeros(64).tolist()] * 2, label=[0, 1])
    (folder / "bad.parquet").write_bytes(b"PAR1nothingPAR1")
    return {
        "no such file": (["generate", "nothing.parquet", *teacher], 2, "nothing.parquet: no such file"),
        "no such column": (["generate", digits, *teacher, "--input", "pixel"], 2, "no column 'pixel'; it has: image"),
        "no label column": (["train-teacher", "unlabelled.parquet", "--model", "mlp", "--out", "x"], 2, "--label"),
        "empty data": (["generate", "empty.parquet", *teacher], 3, "the data has no rows"),
        "not parquet": (["generate", "bad.parquet", *teacher], 3, "cannot be read as Parquet"),
        "another kind of file": (["generate", "notes.txt", *teacher], 2, "notes.txt: no such file"),
        "other class count": (["generate", digits, "--teacher", "python:five:model", "--out", "x"], 2, "5 classes"),
        "broken teacher": (["generate", digits, "--teacher", "python:five:broken", "--out", "x"], 3, "not finite"),
        "constant teacher": (["generate", digits, "--teacher", "python:five:flat", "--out", "x"], 3, "the same logit"),
        "other input shape": (["generate", "two.parquet", *teacher, "--extra-classes"], 2, "another input shape"),
        "another store": (["generate", digits, "--teacher", "run:teacher", "--out", "labels"], 2, "another store"),
        "not a store": (["generate", digits, "--teacher", "run:teacher", "--out", "teacher"], 2, "and no store"),
        "unknown model": (
            ["train-teacher", digits, "--model", "resnet", "--out", "x"],
            2,
            "unknown kind, got 'resnet'",
        ),
        "architecture for a teacher": (["generate", digits, "--teacher", "cnn", "--out", "x"], 2, "without weights"),
        "unknown encoding": (["generate", digits, *teacher, "--encoding", "gzip"], 2, "unknown encoding 'gzip'"),
        "k above the classes": (["generate", digits, *teacher, "--encoding", "topk:11"], 2, "there are 10"),
        "no such store": (["train-student", "nowhere", *train], 2, "nowhere: not a store of labels"),
        "no store to verify": (["verify", "bad.parquet"], 2, "bad.parquet: not a store of labels"),
        "no such run": (["compare", "run:nowhere", "--data", digits], 2, "nowhere: not a finished run"),
        "no such split": (["compare", "run:teacher", "--data", digits, "--split", "dev"], 2, "test, train"),
        "temperature not stored": (["train-student", "labels", *train, "--temperature", "3"], 2, "they hold 1, 2"),
        "no such command": (["labels"], 2, "no command 'labels'"),
        "misspelt command": (["train-studnet"], 2, "Did you mean 'train-student'?"),
        "no such option": (["verify", "labels", "--depp"], 2, "--deep"),
        "steps and epochs": (
            ["train-student", "labels", *train, "--steps", "3", "--epochs", "2"],
            2,
            "expected one of them",
        ),
    }


WRONG = (
    "no such file",
    "no such column",
    "no label column",
    "empty data",
    "not parquet",
    "another kind of file",
    "other class count",
    "broken teacher",
    "constant teacher",
    "other input shape",
    "another store",
    "not a store",
    "unknown model",
    "architecture for a teacher",
    "unknown encoding",
    "k above the classes",
    "no such store",
    "no store to verify",
    "no such run",
    "no such split",
    "temperature not stored",
    "no such command",
    "misspelt command",
    "no such option",
    "steps and epochs",
)


@pytest.mark.parametrize("case", WRONG)
def test_wrong_use_says_what_and_leaves_nothing(folder, case, monkeypatch, capsys):
    """In this process: importing torch for each of them would take most of the time."""
    (folder / "five.py").write_text(
        "import torch\nmodel = lambda x: x.float().flatten(1)[:, 10:15]\n"
        "broken = lambda x: x.float().flatten(1)[:, 10:20] / 0 * 0\nflat = lambda x: torch.zeros(len(x), 10)\n"
    )
    monkeypatch.chdir(folder)
    arguments, code, words = wrong_uses(folder)[case]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code
    message = capsys.readouterr().err
    assert words in message
    assert "Traceback" not in message
    assert not (folder / "x").exists()


def test_debug_shows_where_an_error_was_raised(folder):
    command = [sys.executable, "-m", "softlabels_cli", "--debug", "verify", "nowhere"]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.count("not a store of labels") == 1, "the message is printed once"


def test_what_a_store_says_does_not_steer_the_terminal(tmp_path):
    forging.make(tmp_path / "s", "topk-zarr", teacher=TeacherRecord(spec="\x1b[2Jevil\x9b<b>", digest="d"))
    said = call("inspect", "s", cwd=tmp_path)
    assert "\x1b" not in said
    assert r"\x1b[2Jevil\x9b<b>" in said
    (tmp_path / "s" / "softlabels.json").write_text('{"\x1b[2J": 1}')
    assert "\x1b" not in call("inspect", "s", cwd=tmp_path, code=3)


INJECTED = (
    "=cmd|'/C calc'!A0",
    "<script>alert(1)</script>",
    "a\nsnapshot    99, digest 0",
    "\x9b2J",
    "\u202eb",
    "\x7f",
)


@pytest.mark.parametrize("name", INJECTED)
def test_names_are_shown_within_their_line_and_escaped(tmp_path, capsys, name):
    """Formulas and tags are shown as they are, behind a word of ours; what moves a cursor is not."""
    forging.make(tmp_path / "s", "topk-zarr", teacher=TeacherRecord(spec=name, digest=name),
                 data=DataRecord(spec=name, fingerprint=name, rows=12))  # fmt: skip
    (tmp_path / "s" / "tmp" / f"{name.replace('/', '')}").write_text("litter")
    outputs = []
    for arguments in (["inspect"], ["inspect", "--json"], ["gc", "--older-than", "0"], ["verify", "-q"]):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, str(tmp_path / "s")])
        assert not ended.value.code
        outputs.append(capsys.readouterr().out)
    assert all(char.isprintable() or char == "\n" for text in outputs for char in text)
    assert json.loads(outputs[1])["teacher"] == {"spec": name, "digest": name}
    # Lines that are too long go on behind spaces.
    lines = [line for text in (outputs[0], outputs[2]) for line in text.splitlines() if not line.startswith("      ")]
    starts = {"rows", "size", "snapshot", "teacher", "data", "shards", "made", "head", str(tmp_path / "s")}
    assert all(line.startswith(tuple(starts)) for line in lines), "none begins as its maker wished"
    assert sum(line.startswith("snapshot") for line in lines) == 1


@pytest.mark.parametrize("name", ["=cmd()", "<b>", "a b", "\x1b[2J", "é"])
def test_heads_have_plain_names_alone(name):
    """They are columns, paths and keys of JSON; classes have no names, and keys are shown as hexadecimal digits."""
    with pytest.raises(sl.errors.InvalidArgument, match="head name: got"):
        forging.descriptor("topk-zarr", heads={name: forging.head_of("topk-zarr")})


def test_a_reader_that_goes_away_is_no_failure(folder):
    command = f"{sys.executable} -m softlabels_cli inspect labels --json | head -c 1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_demo_tells_the_whole_story_and_a_second_run_reuses_it(demo_teacher, tmp_path):
    """In a folder with its teacher, as JSON: the rows of ``compare``, with what distillation gained."""
    shutil.copytree(demo_teacher, tmp_path / "demo" / "teacher")
    rows = json.loads(call("demo", "--json", "--quiet", "--seeds", 1, cwd=tmp_path))["rows"]
    teacher, soft, hard = rows
    assert [row["runs"] for row in rows] == [1, 1, 1]
    assert teacher["value"] > 0.97
    assert soft["value"] > 0.94
    assert soft["value"] > hard["value"] + 0.05
    assert soft["label_bytes_per_row"] > 0
    assert teacher["flops"] > 100 * soft["flops"]
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*") if path.is_file()}
    again = call("demo", "--seeds", 1, cwd=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*") if path.is_file()} == files
    printed = [line.removeprefix("$ softlabels ") for line in again.splitlines() if line.startswith("$ softlabels ")]
    assert [line.split()[0] for line in printed] == [
        "train-teacher", "generate", "generate", "inspect", "plan", "verify", "train-student", "train-teacher",
        "compare",
    ]  # fmt: skip
    assert "run:demo/student-soft-0" in again


def test_a_teacher_that_has_no_name_is_said_to_have_none(tmp_path):
    with sl.create(tmp_path / "s", heads={"logits": sl.Head(classes=3, encoding="dense:f16")}) as writer:
        writer.append([0], {"logits": np.zeros((1, 3), np.float32)})
    assert "teacher     unnamed, no digest\n" in call("inspect", tmp_path / "s", cwd=tmp_path)


@pytest.mark.parametrize("command", ["inspect", "verify", "seal", "gc", "repair", "plan"])
def test_every_json_document_has_a_schema_version(folder, command):
    assert json.loads(call(command, "labels", "--json", cwd=folder))["schema_version"] == 1
