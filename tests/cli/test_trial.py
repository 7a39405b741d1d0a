"""A trial of the command line as a new user types it: every slip has a true answer, a typed error and an exit code."""

import contextlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import softlabels as sl
from softlabels.errors import InvalidArgument
from softlabels_cli.generate import parse_encodings
from softlabels_cli.main import SECTIONS, cli, main
from softlabels_cli.output import print_json
from tests.cli.calls import call

TEACHER = """
import numpy as np, torch
from pathlib import Path
from softlabels.models import OutputHead

weights = torch.from_numpy(np.load(Path(__file__).parent / "weights.npy"))

def logits(inputs):
    return inputs.float().flatten(1) @ weights

def several(inputs):
    return {"logits": logits(inputs), "speed": inputs.float().flatten(1)[:, 10:12], "scene": inputs.float().flatten(1)}

def features(inputs):
    return {"logits": logits(inputs), "feat": inputs.float().flatten(1)}

def two(inputs):
    return {"logits": logits(inputs), "aux_logits": logits(inputs)}

several.heads = {
    "logits": OutputHead(classes=10), "speed": OutputHead(classes=2, kind="regression"),
    "scene": OutputHead(classes=64, kind="embedding"),
}

def array(inputs):
    return logits(inputs).numpy()

def pair(inputs):
    return logits(inputs), None


"""
TEACH = ("--teacher", "python:trial_teacher:logits", "-q")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of its own with a teacher whose weights lie in a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trial_teacher.py").write_text(TEACHER)
    save_weights(tmp_path, 0)
    monkeypatch.syspath_prepend(str(tmp_path))
    forget()
    yield tmp_path
    forget()


def save_weights(place, seed):
    np.save(place / "weights.npy", np.random.default_rng(seed).normal(0, 0.1, (64, 10)).astype(np.float32))


def forget():
    """As a new process would, load the teacher again."""
    sys.modules.pop("trial_teacher", None)


def test_replaced_weights_do_not_mix_with_stored_labels(place):
    command = ("generate", "digits", *TEACH, "--out", "labels", "--unit-rows", 200, "--encoding", "topk:4")
    call(*command)
    for unit in (3, 7):
        (place / "labels" / "records" / "00" / f"{unit:08d}.json").unlink()
    save_weights(place, 1)
    forget()
    assert "labels are of another teacher" in call(*command, code=2)
    save_weights(place, 0)
    forget()
    assert "2 units made now" in call(*command)
    save_weights(place, 1)
    forget()
    reuse = ("generate", "digits", *TEACH, "--out", "other", "--encoding", "topk:4", "--reuse", "labels")
    assert "labels are of another teacher" in call(*reuse, code=2)
    assert "1,797 rows" in call("generate", "digits", *TEACH, "--out", "v2", "--teacher-version", "2")
    assert "version 2" in call("inspect", "v2")


def test_the_chosen_columns_are_printed_and_recorded(place):
    with pytest.raises(SystemExit), CliRunner().isolation() as (_, err, _2):
        main(["generate", "digits", "--teacher", "python:trial_teacher:logits", "--out", "labels"])
    notes = err.getvalue().decode()
    for words in ("input: image (uint8, 8x8)", "label: label, 10 classes", "splits: test 450, train 1,347"):
        assert words in notes
    text = " ".join(call("inspect", "labels").split())
    assert "input uint8 (8, 8)" in text
    assert "10 classes in column label" in text
    assert "digest covers specification python:trial_teacher:logits, source text of" in text
    document = json.loads(call("inspect", "labels", "--json"))
    assert document["data"]["shape"] == [8, 8]
    assert document["schema_version"] == 1


@pytest.mark.parametrize("name", ["array", "pair"])
def test_teachers_may_return_what_networks_return(place, name):
    output = call("generate", "digits", "--teacher", f"python:trial_teacher:{name}", "--out", "labels", "-q")
    assert "1,797 rows" in output


def test_each_head_has_its_encoding(place):
    arguments = ("generate", "digits", "--teacher", "python:trial_teacher:several", "--out", "labels", "-q", "--json")
    result = json.loads(call(*arguments, "--encoding", "logits=topk:3", "--encoding", "scene=dense:q8"))
    assert result["encodings"] == {"logits": "topk:3:f16", "speed": "dense:f32", "scene": "dense:q8"}
    shown = call(*arguments[:-1], "--encoding", "logits=topk:3", "--encoding", "scene=dense:q8")
    for line in ("head logits: classes, 10 classes, topk:3:f16", "head speed: regression, 2 numbers, dense:f32"):
        assert line in shown
    lines = call("inspect", "labels").splitlines()
    assert next(line for line in lines if "speed" in line).endswith("speed: regression, 2 numbers, dense:f32")
    assert next(line for line in lines if "logits:" in line).endswith("logits: classes, 10 classes, topk:3:f16, T = 1")
    assert set(sl.open("labels").heads) == {"logits", "speed", "scene"}
    errors = call(*arguments[:-2], "--encoding", "depth=topk:3", code=2)
    assert "no such head, got 'depth'; the teacher has logits (classes)" in errors
    errors = call(*arguments[:-2], "--encoding", "topk:3", "--encoding", "topk:4", code=2)
    assert "--encoding without a head" in errors


@pytest.mark.parametrize(
    "arguments",
    [
        ("train-student", "labels", "--student", "mlpp", "--out", "run"),
        ("train-teacher", "nothing.csv", "--model", "mlp:widht=3", "--out", "run"),
        ("generate", "nothing.csv", "--teacher", "python:trial_teacher:several", "--out", "s", "--encoding", "topk4"),
    ],
)
def test_a_misspelt_option_is_found_before_the_data_is_read(place, arguments):
    """Hashing a large folder of images takes minutes."""
    assert re.search("'mlpp'|'widht'|'topk4'", call(*arguments, code=2))


def test_an_output_of_unclear_kind_must_be_declared(place):
    arguments = ("generate", "digits", "--teacher", "python:trial_teacher:features", "--out", "labels", "-q")
    message = call(*arguments, code=3)
    assert "head 'feat' has no declared kind" in message
    assert "--head logits=classes --head feat=embedding" in message
    assert not (place / "labels").exists()
    both = call(*arguments, "--head", "logits=classes", "--head", "feat=embedding")
    assert "head feat: embedding, 64 numbers, dense:f16" in both
    alone = call(*arguments[:-2], "alone", "-q", "--head", "logits=classes")
    assert "feat" not in alone
    two = call("generate", "digits", "--teacher", "python:trial_teacher:two", "--out", "two", "-q")
    assert "head aux_logits: classes, 10 classes, dense:f16" in two


def test_encodings_are_read_by_head():
    assert parse_encodings([]) is None
    assert parse_encodings(["auto:max-kl=0.05"]) == {"*": "auto:max-kl=0.05"}
    assert parse_encodings(["a=adaptive:bytes=40:d4:8", "topk:4"]) == {"a": "adaptive:bytes=40:d4:8", "*": "topk:4"}


def test_data_may_have_no_label(place):
    """A column named like a label that is none: ten classes of the teacher do not contradict it."""
    rng = np.random.default_rng(0)
    np.savez("data.npz", x=rng.normal(size=(50, 64)).astype(np.float32), y=rng.integers(0, 3, 50))
    assert "show 3" in call("generate", "data.npz", *TEACH, "--out", "labels", code=2)
    assert "50 rows" in call("generate", "data.npz", *TEACH, "--out", "labels", "--no-label")
    assert "exclude each other" in call(
        "generate", "data.npz", *TEACH, "--out", "x", "--no-label", "--label", "y", code=2
    )


def test_columns_of_targets_are_options(place):
    np.savez("data.npz", x=np.zeros((9, 64), np.float32), angle=np.linspace(0, 1, 9), road=np.zeros((9, 2, 2), int))
    options = ["--target", "steering=angle", "--target", "road=road", "--dry-run", "--no-gate"]
    assert "9 rows" in call("generate", "data.npz", *TEACH, "--out", "x", *options)
    assert "expected NAME=COLUMN" in call("generate", "data.npz", *TEACH, "--out", "x", "--target", "a", code=2)
    assert "no column 'b'" in call("generate", "data.npz", *TEACH, "--out", "x", "--target", "a=b", code=2)


def test_targets_in_bytes_are_reached_or_refused(place):
    call("generate", "digits", *TEACH, "--out", "labels", "--encoding", "adaptive:bytes=24")
    assert sl.open("labels").bytes_per_row <= 24
    message = call("generate", "digits", *TEACH, "--out", "x", "--encoding", "adaptive:bytes=12", code=2)
    assert "keys alone take 16 bytes per row" in message
    message = call("generate", "digits", *TEACH, "--out", "x", "--encoding", "auto:budget=20KB", code=2)
    assert "keys alone take 28,752 bytes" in message


def test_after_repair_inspect_and_gc_tell_what_is_there_now(place):
    call("generate", "digits", *TEACH, "--out", "labels", "--unit-rows", 200)
    shard = next((place / "labels" / "shards").rglob("00000003-*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    call("repair", "labels", "-q")
    text = re.sub(r" +", " ", call("inspect", "labels"))
    assert "rows 1,597 in 8 units" in text
    assert "of 1,797 rows in 9 units; the units have changed since" in text
    assert "missing units 3; generate writes them and seals" in text
    assert json.loads(call("inspect", "labels", "--json"))["snapshot"]["rows"] == 1797
    with pytest.raises(SystemExit), CliRunner().isolation() as (out, err, _):
        main(["gc", "labels"])
    assert "labels: 0 files" in out.getvalue().decode()
    assert "Skipped 3 files" in err.getvalue().decode()
    assert "younger than 7 days" in err.getvalue().decode()
    assert "labels: 3 files" in call("gc", "labels", "--older-than", 0)


def test_messages_name_the_options_that_were_typed(place):
    """Python callers read of MODEL, student and encoding."""
    call("generate", "digits", *TEACH, "--out", "labels")
    unknown = call("generate", "digits", "--teacher", "pyton:x", "--out", "s", code=2)
    assert "Error: --teacher 'pyton:x': unknown kind, got 'pyton'" in unknown
    into = ("train-student", "labels", "--data", "digits", "--out", "run")
    assert "Error: --student 'mpl': unknown kind" in call(*into, "--student=mpl", code=2)
    assert "Error: --student 'mlp:wide=3': unknown option" in call(*into, "--student", "mlp:wide=3", code=2)
    assert "Error: MODEL 'mpl': unknown kind" in call("compare", "mpl", "--data", "digits", code=2)
    assert "Error: --loss: unknown name" in call(*into, "--student", "mlp", "--loss", "kll", code=2)
    invalid = ("generate", "digits", *TEACH, "--out", "s", "--encoding", "topk")
    assert "Error: --encoding: invalid 'topk'" in call(*invalid, code=2)
    with pytest.raises(InvalidArgument, match=r"^MODEL 'mpl': unknown kind"):
        sl.train_student("labels", "digits", student="mpl", out="run")


def test_a_conflict_names_settings_that_were_typed_alone(place):
    call("generate", "digits", *TEACH, "--out", "labels", "--encoding", "topk:4", "--unit-rows", 300)
    conflict = call("generate", "digits", *TEACH, "--out", "labels", code=2)
    assert "its heads.logits.encoding is topk:4:f16, here it would be dense:f16. Name another" in conflict
    conflict = call("generate", "digits", *TEACH, "--out", "labels", "--encoding", "topk:4", code=2)
    assert "its unit_rows is 300, here it would be" in conflict


def test_misspelt_stores_and_runs_are_answered_by_the_nearest(place):
    call("generate", "digits", *TEACH, "--out", "labels")
    assert "Did you mean labels?" in call("inspect", "lables", code=2)
    call("train-student", "labels", "--student", "mlp:width=8", "--data", "digits", "--out", "run", "--steps", 2, "-q")
    assert "Did you mean run?" in call("compare", "run:runn", "--data", "digits", code=2)
    generate = ("generate", "digits", *TEACH, "--out", "other")
    assert "Did you mean 'topk'?" in call(*generate, "--encoding", "topkk:3", code=2)
    assert "Did you mean 'ray'?" in call(*generate, "--engine", "rey", code=2)
    assert call(*generate, "--label", "z", code=2).endswith("it has: image, label, split\n")


def test_a_teacher_named_by_its_file_and_a_dangling_link(place):
    named = call("generate", "digits", "--teacher", "python:trial_teacher.py:logits", "--out", "labels", code=2)
    assert "Name the module, not its file, e.g. python:trial_teacher:logits" in named
    (place / "labels").symlink_to("nowhere")
    assert "labels is a file or a dangling link; name a dir" in call(
        "generate", "digits", *TEACH, "--out", "labels", code=2
    )


def test_operations_that_torch_does_not_count_are_not_counted(place):
    (place / "shift.py").write_text("def logits(inputs):\n    return inputs.float().flatten(1)[:, 10:20]\n")
    compared = call("compare", "python:shift:logits", "--data", "digits", "-q")
    assert "not counted" in compared
    assert "retention" in compared
    rows = json.loads(call("compare", "python:shift:logits", "--data", "digits", "--json"))["rows"]
    assert rows[0]["flops"] is None


def test_a_snapshot_can_be_pinned(place):
    digest = json.loads(call("generate", "digits", *TEACH, "--out", "labels", "--json"))["snapshot"]
    assert "rows" in call("inspect", "labels", "--digest", digest)
    assert "1,797 rows" in call("verify", "labels", "--digest", digest)
    wrong = digest[::-1]
    assert wrong in call("verify", "labels", "--digest", wrong, code=3)
    assert wrong in call("inspect", "labels", "--digest", wrong, code=3)
    assert "recommended" in call("plan", "labels", "--digest", digest, "-q")
    assert wrong in call("plan", "labels", "--digest", wrong, code=3)
    reuse = ("generate", "digits", *TEACH, "--out", "copy", "--reuse", "labels", "--digest")
    assert wrong in call(*reuse, wrong, code=3)
    assert "got 2 for 1 stores" in call(*reuse, digest, "--digest", digest, code=2)
    assert "1,797 rows copied from labels" in call(*reuse, digest, notes=True)
    assert "--digest: is for a store" in call("plan", "digits", *TEACH, "--digest", digest, code=2)
    errors = call("train-student", "labels", "--student", "mlp", "--out", "run", "--digest", wrong, code=3)
    assert wrong in errors
    assert not (place / "run").exists()


@pytest.mark.parametrize("columns", [60, 80])
def test_plan_inspect_and_compare_fit_into_the_terminal(place, monkeypatch, columns):
    call("generate", "digits", *TEACH, "--out", "labels", "--encoding", "topk:4")
    monkeypatch.setenv("COLUMNS", str(columns))
    plan = call("plan", "labels", "-q")
    assert plan.splitlines()[0].split()[:4] == ["encoding", "bytes/row", "KL", "total"]
    inspect = re.sub(r"[0-9a-f]{64},?", "DIGEST", call("inspect", "labels"))
    call("train-teacher", "digits", "--model", "mlp:width=4,depth=1", "--steps", 2, "--out", "teacher", "-q")
    compare = call("compare", "run:teacher", "run:teacher", "--data", "digits", "--each", "-q")
    assert [line.split()[0] for line in compare.splitlines() if line].count("model") >= 2
    for words in ("accuracy", "parameters", "latency", "trained on"):
        assert words in compare
    for text in (plan, inspect, compare):
        assert max(map(len, text.splitlines())) <= columns, text


def test_compare_shows_no_size_for_a_function(place):
    call("train-teacher", "digits", "--model", "mlp:width=4,depth=1", "--steps", 2, "--out", "run", "-q")
    table = call("compare", "python:trial_teacher:logits", "run:run", "--data", "digits", "-q").splitlines()
    for column, place_in_row in (("parameters", 1), ("file", -1)):
        # The table is split where the terminal ends.
        row = next(index for index, line in enumerate(table) if column in line.split())
        function = table[row + 2].split()
        assert (function[0], function[place_in_row]) == ("python:trial_teacher:logits", "-")


@pytest.mark.parametrize("target", ["nowhere/plan.svg", "plan.gif", "folder.svg"])
def test_a_picture_that_cannot_be_written_is_refused_at_once(place, target):
    call("generate", "digits", *TEACH, "--out", "labels")
    (place / "folder.svg").mkdir()
    assert re.search(r"plot: .*; expected", call("plan", "labels", "-q", "--plot", target, code=2))


@pytest.mark.parametrize("arguments", [("--debug", "verify", "nowhere"), ("verify", "nowhere", "--debug")])
def test_debug_works_before_and_after_a_command(place, arguments):
    assert "Traceback" in call(*arguments, code=2)
    assert "Traceback" not in call("verify", "nowhere", code=2)


def test_a_full_standard_output_is_an_error_of_one_paragraph(place, monkeypatch, capsys):
    call("generate", "digits", *TEACH, "--out", "labels")
    with contextlib.suppress(OSError), Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as ended:
            main(["inspect", "labels"])
    assert ended.value.code == 1
    errors = capsys.readouterr().err
    assert "standard output: cannot be written, got No space left on device" in errors
    assert "Traceback" not in errors


def test_a_url_is_passed_on_as_it_is(place):
    """Two slashes stay two: a path would make a local folder of the scheme's name."""
    location = f"file://{place}/labels"
    call("generate", "digits", *TEACH, "--out", location)
    assert "1,797 rows" in call("verify", location)
    assert "unsupported storage" in call("generate", "digits", *TEACH, "--out", "nfs://server/labels", code=2)
    assert not any(path.name.endswith(":") for path in place.iterdir())


def test_json_has_a_version_and_no_nan(capsys):
    print_json({"value": float("nan"), "nested": [{"limit": float("inf")}, 1.5, "NaN"]})
    document = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert document == {"schema_version": 1, "value": None, "nested": [{"limit": None}, 1.5, "NaN"]}


def test_help_fits_on_a_screen():
    text = CliRunner().invoke(cli, ["--help"], terminal_width=80).output
    assert "..." not in text.replace("[ARGS]...", "")
    for names in SECTIONS.values():
        for name, summary in names.items():
            assert re.search(rf"^  {name} +{re.escape(summary)}$", text, re.MULTILINE), "one line each"
    for code in ("0    done", "2    wrong usage", "3    a check", "75   ", "130  interrupted"):
        assert code in text


def test_readme_has_the_commands_of_the_demo(root):
    """Typed by hand they give the table that README shows."""
    from softlabels_cli.demo import HARD_LABELS, STEPS, STUDENT
    from softlabels_cli.demo import TEACHER as DEMO_TEACHER

    readme = (root / "README.md").read_text()
    assert f"train-teacher digits --model {DEMO_TEACHER}" in readme
    assert f"train-student labels --student {STUDENT}" in readme
    assert f"--steps {STEPS}" in readme
    assert f"--hard-labels {HARD_LABELS}" in readme
