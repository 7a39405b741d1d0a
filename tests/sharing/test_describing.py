"""Descriptions, cards and croissant.json: they show what the owner states, and a stranger's text does nothing."""

import hashlib
import json
import os
import re
import shutil
import warnings

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

import softlabels as sl
from softlabels.errors import InvalidArgument, StoreCorrupt, StoreNotFound
from softlabels.sharing.card import render_card
from softlabels.store.format.description import Description, last_description
from softlabels.store.format.provenance import DataRecord, TeacherRecord
from softlabels_cli.main import cli

STATEMENTS = {
    "license": "CC-BY-4.0", "terms": "Research only.", "data": "Bundled digits, no personal data.",
    "contact": "labels@example.org",
}  # fmt: skip


@pytest.fixture
def store(sealed, tmp_path):
    shutil.copytree(sealed, tmp_path / "labels")
    return tmp_path / "labels"


def test_a_description_does_not_change_the_digest_and_is_shown(store):
    digest = sl.open(store).snapshot.digest
    assert sl.describe(store, **STATEMENTS).to_json() == STATEMENTS
    assert sl.open(store).snapshot.digest == digest
    assert sl.verify(store, deep=True).ok
    assert sl.inspect(store).description.contact == "labels@example.org"
    done = CliRunner().invoke(cli, ["inspect", str(store)])
    for text in STATEMENTS.values():
        assert text in done.stdout
    assert json.loads(CliRunner().invoke(cli, ["inspect", str(store), "--json"]).stdout)["description"] == STATEMENTS


def test_statements_are_added_and_changed_one_by_one(store):
    sl.describe(store, license="MIT", contact="a")
    sl.describe(store, contact="b")
    assert sl.describe(store).to_json() == {"license": "MIT", "contact": "b"}
    assert [path.name for path in sorted((store / "description").iterdir())] == ["00000001.json", "00000002.json"]


def test_generate_states_what_it_was_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_teacher.py").write_text(
        "import torch\nnetwork = torch.nn.Linear(64, 10)\n"
        "def model(images):\n    return network(images.float().flatten(1))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    command = ["generate", "digits", "--teacher", "python:my_teacher:model", "--out", "labels", "-q", "--no-gate"]
    done = CliRunner().invoke(cli, [*command, "--license", "CC0-1.0", "--data-statement", "Digits."])
    assert done.exit_code == 0, done.output
    assert sl.inspect("labels").description.to_json() == {"license": "CC0-1.0", "data": "Digits."}
    assert (tmp_path / "labels" / "croissant.json").exists()


def test_croissant_validates_and_lists_every_shard_with_its_hash(store):
    """The reference implementation reads it, and the file hashes are right."""
    import mlcroissant

    sl.describe(store, title="Digits", **STATEMENTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = mlcroissant.Dataset(str(store / "croissant.json"))
    assert not dataset.metadata.issues.errors
    assert [text for text in dataset.metadata.issues.warnings if "datePublished" not in text] == []
    document = json.loads((store / "croissant.json").read_text())
    files = {entry["contentUrl"]: entry["sha256"] for entry in document["distribution"]}
    assert sum(name.startswith("shards/") for name in files) == sl.open(store).units
    for name, digest in files.items():
        assert hashlib.sha256((store / name).read_bytes()).hexdigest() == digest
    assert document["license"] == "CC-BY-4.0"
    assert document["usageInfo"] == "Research only."


@pytest.mark.parametrize("planted", [None, "directory", "fifo"])
def test_a_missing_or_planted_file_is_a_typed_error(store, planted):
    path = next(path for path in (store / "shards").rglob("*") if path.is_file())
    path.unlink()
    if planted == "directory":
        path.mkdir()
    elif planted == "fifo":
        os.mkfifo(path)
    with pytest.raises(StoreCorrupt, match=path.name):
        sl.describe(store, license="MIT")


@pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated")  # rdflib's own
def test_the_provenance_goes_from_data_and_teacher_to_labels(store):
    """Parsed as RDF: PROV-O, with the digests that the store holds."""
    import rdflib

    sl.describe(store, license="MIT")
    descriptor = sl.open(store).descriptor
    graph = rdflib.Graph().parse(data=(store / "croissant.json").read_text(), format="json-ld")
    prov = rdflib.Namespace("http://www.w3.org/ns/prov#")
    ((labels, activity),) = graph.subject_objects(prov.wasGeneratedBy)
    used = {str(entity) for entity in graph.objects(activity, prov.used)}
    assert used == {f"data:{descriptor.data.fingerprint}", f"teacher:{descriptor.teacher.digest or 'unknown'}"}
    assert {str(entity) for entity in graph.objects(labels, prov.wasDerivedFrom)} <= used
    assert (activity, rdflib.RDF.type, prov.Activity) in graph


def test_the_card_has_the_header_of_the_hub(store):
    sl.describe(store, title="Digits: small", **STATEMENTS)
    header = yaml.safe_load((store / "README.md").read_text().split("---\n")[1])
    assert header == {
        "license": "cc-by-4.0", "pretty_name": "Digits: small", "size_categories": ["1K<n<10K"],
        "tags": ["softlabels", "soft-labels", "knowledge-distillation"],
    }  # fmt: skip


HOSTILE = [
    "---\nlicense: mit\n---", "!!python/object/apply:os.system ['id']", "a: b # c", "*anchor &anchor", "'\"\\",
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[a](javascript:alert(1))", "![x](http://evil/p.png)",
    "www.evil.example", "https://evil.example", "a@evil.example", "| a | b |", "`code` ``` ~~~", "# heading", "- list",
    "1. list", "> quote", "&lt;b&gt;", "\x1b[31mred", "line\nbreak\r\n\r\n## Heading", "\u202eto the left", "x" * 5000,
    "--- ", "===", "[ref]: http://evil", "$$x$$", "<!-- comment -->", "{{ template }}", "{% raw %}",
]  # fmt: skip


def inert(card):
    """Assert that a card holds the keys, tags and links that every card holds, and nothing else."""
    _, header, body = card.split("---\n", 2)
    assert set(yaml.safe_load(header)) <= {
        "license", "license_name", "license_details", "pretty_name", "tags", "size_categories",
    }  # fmt: skip
    html = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(body)
    tags = set(re.findall(r"<(\w+)", html))
    assert tags <= {"h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "code", "pre"}, tags
    assert len(re.findall("<h[12]", html)) == 6
    assert html.count("<!--") == 1
    assert "\x1b" not in card
    assert "\u202e" not in body
    outside = re.sub(r"<code.*?</code>", "", html, flags=re.DOTALL)
    assert not re.search(r"https?://|www\.|\w@\w", re.sub(r"`[^`\n]*`", "", body)), "a reader would make it a link"
    assert "<script" not in outside


@pytest.mark.parametrize("text", HOSTILE)
def test_a_strangers_text_is_inert_in_the_card(sealed, text):
    store = sl.open(sealed)
    store.descriptor = store.descriptor.__class__(
        **{name: getattr(store.descriptor, name) for name in ("rows", "unit_rows", "chunk_rows", "heads")},
        teacher=TeacherRecord(spec=text, digest=text),
        data=DataRecord(spec=text, fingerprint=text, rows=store.rows),
    )
    card = render_card(store, Description(title=text, license=text, terms=text, data=text, contact=text))
    inert(card)


@given(text=st.text(min_size=1, max_size=80).filter(str.strip))
@settings(max_examples=60)
def test_any_text_is_inert_in_the_card(sealed, text):
    inert(render_card(sl.open(sealed), Description(title=text, license=text, terms=text, contact=text)))


def test_a_card_written_by_hand_is_left_alone(store):
    (store / "README.md").write_text("# Mine")
    sl.describe(store, license="MIT")
    assert (store / "README.md").read_text() == "# Mine"


def test_a_copy_has_the_description_and_a_card_made_from_the_store(store, tmp_path):
    """A README and a croissant.json of the source are not taken over as they are."""
    sl.describe(store, **STATEMENTS)
    expected = {name: (store / name).read_text() for name in ("README.md", "croissant.json")}
    (store / "README.md").write_text(expected["README.md"] + "<script>alert(1)</script>")
    document = json.loads(expected["croissant.json"])
    (store / "croissant.json").write_text(json.dumps(document | {"description": "<script>", "url": "http://evil"}))
    sl.pull(store, tmp_path / "copy")
    assert {name: (tmp_path / "copy" / name).read_text() for name in expected} == expected
    assert last_description(sl.open(tmp_path / "copy").storage)[1].to_json() == STATEMENTS


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"null", b'{"distribution": 5}', b"[" * 10**5])
def test_a_damaged_croissant_of_the_source_does_no_harm(store, tmp_path, data):
    sl.describe(store, license="MIT")
    (store / "croissant.json").write_bytes(data)
    sl.push(store, tmp_path / "copy")
    document = json.loads((tmp_path / "copy" / "croissant.json").read_text())
    assert document["distribution"][-1]["@type"] == "cr:FileSet"


def test_a_damaged_description_is_an_error(store, tmp_path):
    sl.describe(store, license="MIT")
    path = store / "description" / "00000001.json"
    path.write_bytes(path.read_bytes().replace(b"MIT", b"GPL"))
    for verb in (sl.inspect, sl.describe, lambda place: sl.push(place, tmp_path / "copy")):
        with pytest.raises(StoreCorrupt, match="digest does not match"):
            verb(store)


def test_statements_that_are_no_text_are_refused(store, tmp_path):
    for text in ("", "  ", "x" * 20_000, "\ud800"):
        with pytest.raises(InvalidArgument):
            sl.describe(store, license=text)
    with pytest.raises(StoreNotFound):
        sl.describe(tmp_path / "none", license="MIT")


def test_the_command_describes(store):
    done = CliRunner().invoke(cli, ["describe", str(store), "--license", "MIT", "--contact", "me", "--json"])
    assert json.loads(done.stdout)["description"] == {"license": "MIT", "contact": "me"}
    assert "contact     me" in CliRunner().invoke(cli, ["describe", str(store)]).stdout
    assert np.isfinite(sl.open(store).read([0]).values).all()
