"""The commands on text, end to end: what a user types is text in, student out."""

import json
import shutil
import sysconfig
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import softlabels as sl
from softlabels.errors import DataNotFound, InvalidArgument, RunCorrupt
from softlabels_cli import demo_language
from softlabels_cli.main import cli
from tests.generation.processes import content
from tests.warm import WarmPython


def run(*arguments, code=0):
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus, a teacher, labels and a student, made by commands."""
    root = tmp_path_factory.mktemp("commands")
    library = Path(sysconfig.get_paths()["stdlib"])
    (root / "corpus.txt").write_text((library / "shlex.py").read_text() + (library / "bisect.py").read_text())
    (root / "held-out.txt").write_text((library / "keyword.py").read_text())
    train = ["--steps", 60, "--batch-size", 8, "--lr", "5e-3", "-q"]
    run("train-teacher", root / "corpus.txt", "--model", "gpt:layers=1,width=32,heads=2", "--tokenizer", "bpe:300",
        "--pack", 32, "--out", root / "teacher", *train)  # fmt: skip
    run("generate", root / "corpus.txt", "--teacher", f"run:{root / 'teacher'}", "--out", root / "labels", "--pack", 32,
        "--encoding", "threshold:0.05", "--chosen", "--written-by", "people", "-q")  # fmt: skip
    student = run("train-student", root / "labels", "--student", "gpt:layers=1,width=16,heads=2", "--out",
                  root / "student", *train)  # fmt: skip
    return root, student


def test_a_student_is_reported_with_its_figures_and_a_sample(folder):
    _, result = folder
    for words in ("perplexity", "bits per byte", "KL to the labels", "agreement with the labels", "sample:"):
        assert words in result.stdout


def test_the_store_holds_tokens_tokenizer_and_who_wrote_them(folder):
    store = sl.open(folder[0] / "labels")
    assert store.inputs.written_by == "people"
    assert set(store.heads) == {"logits", "chosen"}
    assert store.tokenizer_document() == (folder[0] / "teacher" / "tokenizer.json").read_bytes()


def test_a_store_of_text_is_inspected_and_planned_for(folder):
    root = folder[0]
    store = sl.open(root / "labels")
    shown = " ".join(run("inspect", root / "labels").stdout.split())
    assert f"ids below {store.inputs.vocabulary}, tokenizer {store.inputs.tokenizer}; text written by people" in shown
    assert json.loads(run("inspect", root / "labels", "--json").stdout)["inputs"]["written_by"] == "people"
    plan = run("plan", root / "corpus.txt", "--teacher", f"run:{root / 'teacher'}", "--pack", 32, "-q")
    assert "threshold" in plan.stdout
    assert plan.stdout.split()[:2] == ["encoding", "bytes/token"]
    assert "bytes/token: labels, key and container" in plan.stdout
    assert " bytes per token, " in plan.stdout


@pytest.mark.slow
def test_a_run_that_is_killed_and_resumed_writes_the_same_labels(folder, tmp_path):
    root = folder[0]
    arguments = ["generate", root / "corpus.txt", "--teacher", f"run:{root / 'teacher'}", "--pack", 16, "--encoding",
                 "threshold:0.05", "--unit-rows", 8, "--batch-size", 4, "--no-gate", "-q", "--out"]  # fmt: skip
    run(*arguments, tmp_path / "whole")
    records = tmp_path / "killed" / "records"
    for _ in range(10):
        before = len(list(records.rglob("*.json")))
        process = WarmPython("-m", "softlabels_cli", *arguments, tmp_path / "killed")
        while process.poll() is None and len(list(records.rglob("*.json"))) < before + 1:
            time.sleep(0.01)
        process.kill()
        process.wait()
    committed = len(list(records.rglob("*.json")))
    run(*arguments, tmp_path / "killed")
    uninterrupted, killed = sl.open(tmp_path / "whole"), sl.open(tmp_path / "killed")
    assert 10 <= committed < uninterrupted.units
    assert uninterrupted.descriptor.digest == killed.descriptor.digest
    assert content(tmp_path / "whole") == content(tmp_path / "killed")


def test_models_are_compared_on_text_that_none_has_seen(folder):
    root = folder[0]
    models = [f"run:{root / 'teacher'}", f"run:{root / 'student'}"]
    table = run("compare", *models, "--data", root / "held-out.txt").stdout
    for words in ("loss", "perplexity", "bits/byte", "KL", "agreement", "labels/token", "tokens/s", "next tokens"):
        assert words in table
    rows = json.loads(run("compare", *models, "--data", root / "held-out.txt", "--json").stdout)["rows"]
    assert [row["metric"] for row in rows] == ["perplexity", "perplexity"]
    assert rows[0]["text"]["kl"] == pytest.approx(0, abs=1e-5)
    assert rows[0]["text"]["agreement"] == 1
    assert rows[1]["text"]["kl"] > 0
    assert rows[1]["value"] > rows[0]["value"]
    store = sl.open(root / "labels")
    positions = int(store.read(range(store.rows), "logits").lengths.sum())
    size = store.bytes_per_row * store.rows / positions
    assert rows[0]["text"]["label_bytes_per_token"] is None
    assert rows[1]["text"]["label_bytes_per_token"] == pytest.approx(size, rel=0.05)


def test_verify_checks_the_files_of_a_run(folder, tmp_path):
    damaged = tmp_path / "student"
    shutil.copytree(folder[0] / "student", damaged)
    assert ": complete, digest " in run("verify", damaged).stdout
    digest = json.loads(run("verify", damaged, "--json").stdout)["digest"]
    for command in ("verify", "inspect"):
        run(command, damaged, "--digest", digest)
    assert "another digest" in run("verify", damaged, "--digest", "0" * 64, code=3).stdout
    with pytest.raises(RunCorrupt, match="another digest"):
        cli.main(["inspect", str(damaged), "--digest", "0" * 64], standalone_mode=False)
    run("verify", damaged, "--public-key", "key.pub", code=2)
    weights = bytearray((damaged / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(weights)
    assert run("verify", damaged, code=3).stdout.startswith("bad: ")
    problem = json.loads(run("verify", damaged, "--json", code=3).stdout)
    assert not problem["ok"]
    assert "digest" in problem["problem"]
    (damaged / "tokenizer.json").unlink()
    assert not json.loads(run("verify", damaged, "--json", code=3).stdout)["ok"]


def test_a_generation_can_be_estimated_first(folder):
    root = folder[0]
    result = run("generate", root / "corpus.txt", "--teacher", f"run:{root / 'teacher'}", "--out", root / "none",
                 "--pack", 32, "--dry-run", "--json", "-q")  # fmt: skip
    assert json.loads(result.stdout)["rows"] == sl.open(root / "labels").rows
    assert not (root / "none").exists()


def test_options_of_text_are_checked(folder):
    root = folder[0]
    teacher = ["--teacher", f"run:{root / 'teacher'}", "--out", str(root / "none"), "-q"]
    corpus = str(root / "corpus.txt")
    invoke = CliRunner().invoke
    result = invoke(cli, ["generate", corpus, *teacher, "--tokenizer", str(root / "missing")])
    assert isinstance(result.exception, DataNotFound)
    result = invoke(cli, ["train-teacher", corpus, "--model", "gpt", "--out", str(root / "none"), "-q"])
    assert isinstance(result.exception, InvalidArgument)
    assert "text needs a tokenizer" in str(result.exception)
    run("generate", corpus, *teacher, "--pack", 1, code=2)
    with pytest.raises(InvalidArgument, match="cannot be exported, got a model of text"):
        sl.export_model(f"run:{root / 'teacher'}", corpus, root / "none.onnx")


def test_the_demonstration_names_commands_that_exist(tmp_path):
    for _, arguments in demo_language.story(tmp_path, 2):
        assert arguments[0] in cli.list_commands(click.Context(cli))
    demo_language.write_corpus(tmp_path)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes["corpus.txt"] >= demo_language.CORPUS_BYTES
    assert sizes["held-out.txt"] >= demo_language.HELD_OUT_BYTES
    first = (tmp_path / "corpus.txt").read_bytes()
    demo_language.write_corpus(tmp_path)
    assert (tmp_path / "corpus.txt").read_bytes() == first
