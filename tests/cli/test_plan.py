"""``plan``, and ``generate`` that finds the encoding itself: what was promised is what the store has."""

import json
import re

import pytest

import softlabels as sl
from softlabels import generation, planning
from tests.cli.calls import call


@pytest.fixture(scope="module")
def folder(tmp_path_factory, digits_path):
    """A teacher, and a store of its labels."""
    folder = tmp_path_factory.mktemp("plan")
    call(
        "train-teacher", digits_path, "--model", "mlp:width=16,depth=1", "--steps", 150, "--out", "teacher", cwd=folder
    )
    call("generate", digits_path, "--teacher", "run:teacher", "--encoding", "topk:4", "--out", "labels", cwd=folder)
    return folder


def planned(folder, *arguments):
    return json.loads(call("plan", *arguments, "--json", cwd=folder))


def test_a_store_and_its_teacher_plan_alike(folder, digits_path):
    of_store = planned(folder, "labels")
    of_teacher = planned(folder, digits_path, "--teacher", "run:teacher")
    assert {"encoding", "bytes_per_row", "kl", "top1", "bytes_total", "front"} <= of_store["rows"][0].keys()
    of_probe, of_predictions = (
        {row["encoding"]: row for row in document["rows"]} for document in (of_store, of_teacher)
    )
    assert of_probe.keys() == of_predictions.keys()
    assert [name for name, row in of_probe.items() if row["current"]] == ["topk:4:f16"]
    for name in ("topk:2:f16", "dense:q8"):
        assert of_probe[name]["bytes_per_row"] == pytest.approx(of_predictions[name]["bytes_per_row"], rel=0.1)
        assert of_probe[name]["bytes_total"] == pytest.approx(of_probe[name]["bytes_per_row"] * 1797, rel=0.01)


def test_without_a_goal_the_default_is_recommended_with_its_reason(folder):
    shown = call("plan", "labels", cwd=folder)
    assert "recommended: --encoding dense:f16 (" in shown
    assert "the default up to 64 classes" in shown
    assert "--max-kl NATS or --budget SIZE" in shown
    document = planned(folder, "labels")
    assert (document["recommended"], document["goal"]) == ("dense:f16", None)
    assert planned(folder, "labels", "--max-kl", 0.01)["goal"] == "auto:max-kl=0.01"


def test_prices_give_the_cost_of_what_is_recommended(folder, digits_path):
    prices = ("--price-hour", 2.5, "--price-gb-month", 1000)
    document = planned(folder, digits_path, "--teacher", "run:teacher", "--rows", 10**9, *prices)
    row = next(row for row in document["rows"] if row["encoding"] == document["recommended"])
    costs = document["costs"]
    assert costs["requests"] == 6 * row["units"] + 256
    assert costs["keep_month"] == pytest.approx(row["bytes_total"] / 1e9 * 1000)
    assert costs["label"] == pytest.approx(2.5 * costs["teacher_hours"])
    assert costs["break_even_students"] >= 2
    half = planned(folder, digits_path, "--teacher", "run:teacher", "--rows", 10**9, "--unit-rows", 1000)
    assert half["costs"]["requests"] == 6 * 10**6 + 256
    shown = call("plan", digits_path, "--teacher", "run:teacher", *prices, cwd=folder)
    assert re.search(r"[0-9.]+ teacher hours; 7 requests to an object store", shown)
    assert "the labels pay from student" in shown


def test_a_store_alone_does_not_tell_teacher_hours(folder):
    costs = planned(folder, "labels", "--price-hour", 2.5, "--price-gb-month", 1000)["costs"]
    assert (costs["teacher_hours"], costs["label"], costs["break_even_students"]) == (None, None, None)
    assert costs["keep_month"] > 0
    shown = call("plan", "labels", "--price-hour", 2.5, cwd=folder)
    assert "teacher hours unknown; 7 requests" in shown


def test_the_layout_is_that_of_the_store_unless_another_is_named(folder):
    def totals(*options):
        return {row["encoding"]: row["bytes_total"] for row in planned(folder, "labels", *options)["rows"]}

    own, parquet, small = totals(), totals("--format", "parquet"), totals("--unit-rows", 100)
    assert totals("--format", "zarr", "--codec", "zstd") == own
    assert parquet["topk:4:f16"] != own["topk:4:f16"]
    assert small["topk:4:f16"] > 1.2 * own["topk:4:f16"], "eighteen containers in place of one"


def test_the_columns_are_explained(folder):
    shown = " ".join(call("plan", "labels", cwd=folder).split())
    for words in ("bytes/row: labels, key and container", "KL: nats", "mass: probability of the listed classes"):
        assert words in shown


def test_the_table_shows_the_front_the_store_and_a_picture(folder):
    shown = call("plan", "labels", "--plot", "plan.svg", "--max-kl", "0.01", cwd=folder)
    assert "topk:4:f16 (this store)" in shown
    assert "recommended: --encoding" in shown
    assert "mean entropy of the teacher" in shown
    assert (folder / "plan.svg").read_text().startswith("<?xml")
    assert len(call("plan", "labels", "--all", cwd=folder).splitlines()) > len(shown.splitlines())


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("labels", "--budget", "10 parsecs"), "expected 50GB, 1.5TiB or a number of bytes"),
        (("labels", "--budget", "1KB"), "keys alone take 28,752 bytes for 1,797 rows, got 1,000"),
        (("labels", "--budget", "1GB", "--max-kl", "1"), "give one of them"),
        (("labels", "--head", "other"), "no head 'other'; it has logits"),
        (("nowhere",), "nowhere"),
        (("labels", "--plot", "plan.gif"), "unknown file type, got plan.gif"),
    ],
)
def test_wrong_usage_says_what_to_do(folder, arguments, problem):
    assert problem in call("plan", *arguments, cwd=folder, code=2)


def test_a_kl_that_was_asked_for_is_kept_and_goes_on(folder, digits_path):
    command = ("generate", digits_path, "--teacher", "run:teacher", "--encoding", "auto:max-kl=0.02", "--unit-rows",
               500, "--out", "close")  # fmt: skip
    shown = call(*command, cwd=folder)
    store = sl.open(folder / "close")
    assert store.snapshot.fidelity["logits"].units.kl["1"] <= 0.02
    words = r"goal auto:max-kl=0\.02: \S+ was chosen and has KL 0\.0\d+ nats on [0-9,]+ rows, within 0\.02"
    assert re.search(words, shown)
    settings = generation.Settings(unit_rows=500)  # the share of footers depends on the size of units
    sample = generation.sample(digits_path, teacher=f"run:{folder / 'teacher'}", settings=settings)
    assert store.heads["logits"].encoding == planning.resolve("auto:max-kl=0.02", sample)
    (folder / "close" / "records" / "00" / "00000002.json").unlink()
    assert "1 unit made now" in call(*command, cwd=folder)
    assert sl.open(folder / "close").heads == store.heads


def test_going_on_asks_for_no_sample(folder, digits_path, monkeypatch):
    """The result of a target is in the store; resolving it again might give another one."""
    monkeypatch.chdir(folder)
    options = {"teacher": "run:teacher", "out": "size", "encoding": "auto:budget=60KB", "unit_rows": 900}
    result = generation.generate(digits_path, **options)
    store = sl.open("size")
    assert 45_000 < store.bytes <= 61_000, "keys and footers are counted"
    monkeypatch.setattr(generation.heads.planning, "resolve", lambda *_, **__: pytest.fail("asked again"))
    assert generation.generate(digits_path, **options).encoding == result.encoding


def test_an_encoding_nobody_knows_lists_those_there_are(folder, digits_path):
    said = call(
        "generate", digits_path, "--teacher", "run:teacher", "--encoding", "zip:3", "--out", "x", cwd=folder, code=2
    )
    for form in ("dense", "topk:K", "adaptive:P", "sampled:N", "threshold:TAU"):
        assert form in said
    said = call("generate", digits_path, "--teacher", "run:teacher", "--encoding", "auto:kl=1", "--out", "x",
                cwd=folder, code=2)  # fmt: skip
    assert "auto:max-kl=NATS" in said
    assert not (folder / "x").exists()
