"""Stores whose rows choose their tail prior from a codebook: one codebook a store, whoever writes, whatever happens."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from blake3 import blake3
from safetensors.numpy import save

import softlabels as sl
from softlabels.encodings import parse
from softlabels.errors import InvalidArgument, StoreConflict, StoreCorrupt, StoreUnsupported
from softlabels.generation import generate, heads, output_store
from softlabels.labels import Head
from softlabels.store import open_storage
from softlabels.store.format import canonical_json, codebooks
from softlabels.store.format.descriptor_file import read_descriptor

SPEC = "topk:2:d8:3"
OPTIONS = {"encoding": SPEC, "unit_rows": 300, "temperatures": (1.0, 2.0)}
CLASSES = 30


def logits_of(rows, seed=0):
    return (3 * np.random.default_rng(seed).standard_normal((rows, CLASSES))).astype(np.float32)


def head():
    return {"logits": sl.Head(classes=CLASSES, encoding="adaptive:0.05:d4:4")}


def make(path, rows=range(40), seed=0, pilot=True):
    pilot_logits = {"logits": logits_of(200, seed=9 + seed)} if pilot else None
    with sl.create(path, heads=head(), teacher="t", teacher_digest="d", pilot=pilot_logits, unit_rows=16) as writer:
        writer.append(list(rows), {"logits": logits_of(100)[list(rows)]})
    return sl.open(path)


def codebook_file(root):
    (path,) = (root / "codebooks").iterdir()
    return path


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, digits, teacher):
    """All digits, with a codebook; read only."""
    root = tmp_path_factory.mktemp("stores") / "labels"
    generate(digits, teacher=teacher, out=root, **OPTIONS)
    return root


@pytest.fixture
def store(tmp_path):
    make(tmp_path / "s")
    return tmp_path / "s"


def test_a_generated_store_has_one_codebook_and_better_labels_than_without(labelled, sealed):
    store = sl.open(labelled)
    assert json.loads((labelled / "softlabels.json").read_bytes())["requires"] == ["codebook"]
    priors = store.codebook("logits").priors
    assert priors.shape == (2, 3, 10)
    path = codebook_file(labelled)
    assert path.name == f"{store.heads['logits'].codebook[:32]}.safetensors"
    assert blake3(path.read_bytes()).hexdigest() == store.heads["logits"].codebook
    assert sl.verify(labelled, deep=True).ok
    assert set(np.unique(store.read(range(store.rows)).prior_index)) == {0, 1, 2}


def test_going_on_after_a_crash_uses_the_codebook_there_is(tmp_path, labelled, digits, teacher, monkeypatch):
    root = tmp_path / "s"
    shutil.copytree(labelled, root)
    for name in ("snapshots", "probe"):
        shutil.rmtree(root / name)
    for unit in (1, 4):  # not committed when it crashed
        (root / "records" / "00" / f"{unit:08d}.json").unlink()
    monkeypatch.setattr(heads.codebook, "fit", lambda *_, **__: pytest.fail("fitted again"))
    run = generate(digits, teacher=teacher, out=root, **OPTIONS)
    assert run.new_units == 2
    for name, array in sl.open(root).take(np.arange(1797), ["logits/ids", "logits/steps", "logits/prior"]).items():
        np.testing.assert_array_equal(array, sl.open(labelled).take(np.arange(1797), [name])[name])


def test_a_crash_before_the_descriptor_leaves_litter_that_does_not_matter(tmp_path, labelled, digits, teacher):
    root = tmp_path / "s"
    (root / "codebooks").mkdir(parents=True)
    shutil.copy(codebook_file(labelled), root / "codebooks")
    generate(digits, teacher=teacher, out=root, **OPTIONS)
    assert sl.verify(root, deep=True).ok


def test_who_starts_at_the_same_time_takes_over_the_first_ones_codebook(
    tmp_path, labelled, digits, teacher, monkeypatch
):
    """The other generator, whose accelerator rounds otherwise, has made the store while this one fitted."""
    root, other, real = tmp_path / "s", tmp_path / "other", output_store.plan_store
    generate(digits, teacher=teacher, out=other, seed=5, **OPTIONS)

    def meanwhile(*arguments):
        described = real(*arguments)
        if not root.exists():
            (root / "codebooks").mkdir(parents=True)
            shutil.copy(codebook_file(other), root / "codebooks")
            document = json.loads((other / "softlabels.json").read_bytes()) | {"seed": 0}
            (root / "softlabels.json").write_bytes(canonical_json.to_bytes(document))
        return described

    monkeypatch.setattr(output_store, "plan_store", meanwhile)
    generate(digits, teacher=teacher, out=root, **OPTIONS)
    assert sl.open(root).heads["logits"].codebook != sl.open(labelled).heads["logits"].codebook
    assert sl.verify(root, deep=True).ok


def test_appending_goes_on_without_a_pilot(store):
    before = sl.open(store).heads["logits"].codebook
    grown = make(store, range(30, 60), pilot=False)
    assert (grown.rows, grown.heads["logits"].codebook) == (60, before)
    direct = make(store.parent / "direct", range(60))
    np.testing.assert_array_equal(grown.read(range(60)).log_probs(), direct.read(range(60)).log_probs())


def test_a_new_store_needs_a_pilot_that_is_large_enough(tmp_path):
    with pytest.raises(InvalidArgument, match=r"need a pilot of 16 rows or more, got 15"):
        sl.create(tmp_path / "s", heads=head(), pilot={"logits": logits_of(15)})
    assert not (tmp_path / "s").exists()


def test_a_codebook_that_would_be_too_large_is_refused_at_once():
    wide = Head(classes=300_000, encoding=parse("topk:2:d4:256", classes=300_000).spec)
    with pytest.raises(InvalidArgument, match=r"got 307,200,000 bytes .* Use 111 tail priors or fewer"):
        heads.plan_heads({"logits": wide}, {}, None, seed=0)


def test_a_row_of_the_pilot_that_is_not_finite_is_named(tmp_path):
    pilot = logits_of(100)
    pilot[70, 3] = np.nan
    with pytest.raises(sl.errors.InvalidLogits, match="row 70: 1 of 30 values"):
        sl.create(tmp_path / "s", heads=head(), pilot={"logits": torch.from_numpy(pilot)})


def test_stores_of_one_codebook_merge_and_others_do_not(tmp_path):
    first = make(tmp_path / "a", range(40))
    make(tmp_path / "b", range(30, 80))
    sl.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    merged = sl.open(tmp_path / "all")
    assert merged.rows == 80
    assert merged.heads == first.heads
    direct = make(tmp_path / "direct", range(80))
    np.testing.assert_array_equal(merged.read(range(80)).log_probs(), direct.read(range(80)).log_probs())
    assert sl.verify(tmp_path / "all", deep=True).ok
    make(tmp_path / "c", range(80, 90), seed=1)
    with pytest.raises(StoreConflict, match="codebook"):
        sl.merge([tmp_path / "a", tmp_path / "c"], tmp_path / "mixed")
    assert not (tmp_path / "mixed").exists()


def test_topping_up_takes_the_codebook_over(tmp_path, labelled, digits, teacher, monkeypatch):
    monkeypatch.setattr(heads.codebook, "fit", lambda *_, **__: pytest.fail("fitted again"))
    run = generate(digits, teacher=teacher, out=tmp_path / "s", reuse=[labelled], gate=False, **OPTIONS)
    assert run.reused_rows == 1797
    assert sl.open(tmp_path / "s").heads == sl.open(labelled).heads
    assert codebook_file(tmp_path / "s").read_bytes() == codebook_file(labelled).read_bytes()


def forged(path, priors, name="priors"):
    """A codebook in its place, by whoever can also write the descriptor and thus its hash."""
    root, data = path.parents[1], save({name: priors})
    digest = blake3(data).hexdigest()
    document = json.loads((root / "softlabels.json").read_bytes())
    document["heads"]["logits"]["codebook"] = digest
    (root / "softlabels.json").write_bytes(canonical_json.to_bytes(document))
    (root / "codebooks" / f"{digest[:32]}.safetensors").write_bytes(data)
    return codebooks.read_codebook(open_storage(root), read_descriptor(open_storage(root)), "logits")


EVEN = np.full((1, 4, CLASSES), 1 / CLASSES, np.float32)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\0"),
        lambda path: path.write_bytes(path.read_bytes()[:-7]),
        lambda path: path.write_bytes(save({"priors": EVEN})),
        lambda path: os.truncate(path, 2**28 + 2**13),
    ],
    ids=["missing", "empty", "a byte", "cut short", "another one", "oversized"],
)
def test_a_damaged_codebook_is_an_error_that_names_the_file(store, damage):
    path = codebook_file(store)
    damage(path)
    for use in (lambda: sl.open(store).read([0]), lambda: make(store, range(40, 45), pilot=False)):
        with pytest.raises(StoreCorrupt, match=rf"{path.name} is (missing|damaged).*fetch it again"):
            use()
    checked = sl.verify(store)
    assert not checked.ok
    assert any("codebook" in str(problem) for problem in checked.bad)


@pytest.mark.parametrize(
    "priors",
    [
        EVEN[:, :3],
        EVEN[..., :-1],
        EVEN.astype(np.float64),
        2 * EVEN,
        EVEN * np.nan,
        EVEN * (np.arange(CLASSES) != 3).astype(np.float32),
    ],
    ids=["too few", "other classes", "float64", "sum of 2", "NaN", "a class of 0"],
)
def test_a_forged_codebook_is_refused_by_what_it_holds(store, priors):
    path = codebook_file(store)
    with pytest.raises(StoreCorrupt, match="tail priors"):
        forged(path, np.ascontiguousarray(priors))
    with pytest.raises(StoreCorrupt, match=r"it holds \['posteriors'\]; fetch it again"):
        forged(path, EVEN, "posteriors")
    assert forged(path, EVEN).priors.shape == EVEN.shape, "and only by that"


def test_what_a_store_requires_and_nobody_knows_is_refused(store):
    document = json.loads((store / "softlabels.json").read_bytes())
    document["requires"] = ["codebook", "time travel"]
    (store / "softlabels.json").write_bytes(canonical_json.to_bytes(document))
    with pytest.raises(StoreUnsupported, match=r"requires \['codebook', 'time travel'\].*Upgrade softlabels"):
        sl.open(store)
