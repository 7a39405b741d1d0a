"""Signatures: made and checked here and by the command line of model_signing, and nothing else passes for one."""

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

import softlabels as sl
from softlabels.errors import InvalidArgument, SignatureInvalid, StorageUnsupported, StoreCorrupt
from softlabels.sharing import sign, verify_signature
from softlabels.sharing.bundle import PublicKey, read_private_key, sign_files
from softlabels_cli.main import cli

CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}


def write_keys(folder, name, key, password=None):
    """Write a private and a public key in PEM; returns their paths."""
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Private and public keys by curve, and a foreign one."""
    folder = tmp_path_factory.mktemp("keys")
    pairs = {name: write_keys(folder, name, ec.generate_private_key(curve)) for name, curve in CURVES.items()}
    return pairs | {"foreign": write_keys(folder, "foreign", ec.generate_private_key(CURVES["P-256"]))}


@pytest.fixture
def store(sealed, tmp_path):
    """A copy of the sealed store that a test may change."""
    shutil.copytree(sealed, tmp_path / "labels")
    return tmp_path / "labels"


def model_signing(*arguments):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "model_signing", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("curve", CURVES)
def test_a_signed_store_verifies_with_its_key_and_no_other(store, keys, curve):
    private, public = keys[curve]
    digest = sl.open(store).snapshot.digest
    signature = sign(store, private)
    assert signature.digest == digest == sl.open(store).snapshot.digest
    assert verify_signature(store, public).snapshot.digest == digest
    with pytest.raises(SignatureInvalid, match="no signature by the key") as caught:
        verify_signature(store, keys["foreign"][1])
    assert caught.value.exit_code == 3


def test_model_signing_checks_ours(store, keys, tmp_path):
    private, public = keys["P-256"]
    path = sign(store, private).path
    options = ["--signature", path, "--ignore_unsigned_files", "--public_key"]
    done = model_signing("verify", "key", store, *options, public)
    assert done.returncode == 0, done.stdout + done.stderr
    assert model_signing("verify", "key", store, *options, keys["foreign"][1]).returncode != 0
    snapshot = store / "snapshots" / "00000001.json"
    snapshot.write_bytes(snapshot.read_bytes() + b" ")
    assert model_signing("verify", "key", store, *options, public).returncode != 0


def test_ours_checks_that_of_model_signing(store, keys, tmp_path):
    """It lists every file of the store, so every change of a file is noticed."""
    private, public = keys["P-384"]
    path = tmp_path / "model.sig"
    done = model_signing("sign", "key", store, "--private_key", private, "--signature", path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert verify_signature(store, public, signature=path).rows == 1797
    with pytest.raises(SignatureInvalid, match="of another key"):
        verify_signature(store, keys["P-256"][1], signature=path)
    shard = next((store / "shards").rglob("*.zip"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(SignatureInvalid, match=rf"{shard.name}: is not the file that was signed"):
        verify_signature(store, public, signature=path)


def test_a_signature_of_an_older_snapshot_does_not_cover_the_last_one(tmp_path, keys):
    private, public = keys["P-256"]
    heads = {"logits": sl.Head(classes=3, encoding="dense:f32")}
    for stop in (4, 8):
        with sl.create(tmp_path / "grows", heads=heads, unit_rows=4) as writer:
            writer.append(list(range(stop)), {"logits": np.zeros((stop, 3), np.float32)})
        if stop == 4:
            first = sign(tmp_path / "grows", private)
    with pytest.raises(SignatureInvalid, match="the last snapshot has no signature"):
        verify_signature(tmp_path / "grows", public)
    with pytest.raises(SignatureInvalid, match=r"does not cover snapshots/00000002\.json"):
        verify_signature(tmp_path / "grows", public, signature=first.path)


def tampered(bundle, change):
    """Return a bundle with a changed payload."""
    value = json.loads(bundle)
    payload = json.loads(base64.b64decode(value["dsseEnvelope"]["payload"]))
    change(payload)
    value["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    return json.dumps(value).encode()


FORGERIES = {
    "empty": lambda _: b"",
    "no JSON": lambda _: b"{",
    "a list": lambda _: b"[]",
    "nested": lambda _: b"[" * 200_000,
    "no UTF-8": lambda _: b"\xff\xfe",
    "another media type": lambda data: data.replace(b"v0.3+json", b"v9.9+json"),
    "another payload type": lambda data: data.replace(b"in-toto+json", b"other+json"),
    "another file": lambda data: tampered(data, lambda p: p["predicate"]["resources"][0].update(digest="0" * 64)),
    "another name": lambda data: tampered(data, lambda p: p["subject"][0].update(name="other")),
    "no signature": lambda data: json.dumps(
        (value := json.loads(data)) and value | {"dsseEnvelope": value["dsseEnvelope"] | {"signatures": []}}
    ).encode(),
    "two keys": lambda data: data.replace(b'"mediaType"', b'"mediaType": "x", "mediaType"'),
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_signature_is_refused(store, keys, tmp_path, forge):
    private, public = keys["P-256"]
    path = Path(sign(store, private).path)
    path.write_bytes(forge(path.read_bytes()))
    with pytest.raises(SignatureInvalid, match="not valid"):
        verify_signature(store, public)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "a\x00b", ".", "x/.."])
def test_a_signed_name_that_leaves_the_store_is_refused(store, keys, tmp_path, name):
    """Also with a good key: the list of files may have been made elsewhere."""
    private, public = keys["P-256"]
    (tmp_path / "outside").write_text("secret")
    files = dict.fromkeys(("softlabels.json", "snapshots/00000001.json"), b"\x00" * 32)
    (tmp_path / "sig").write_bytes(sign_files(read_private_key(private)[0], "labels", {name: b"\0" * 32} | files))
    with pytest.raises(SignatureInvalid):
        verify_signature(store, public, signature=tmp_path / "sig")


def test_keys_of_other_kinds_are_refused(store, tmp_path, monkeypatch):
    write_keys(tmp_path, "ed", ed25519.Ed25519PrivateKey.generate())
    write_keys(tmp_path, "koblitz", ec.generate_private_key(ec.SECP256K1()))
    (tmp_path / "text.pem").write_text("no key")
    for name in ("ed", "koblitz", "text"):
        with pytest.raises(InvalidArgument, match="no usable key"):
            sign(store, tmp_path / f"{name}.pem")
    with pytest.raises(InvalidArgument, match="no usable key"):
        PublicKey.read(tmp_path / "ed.pub")
    with pytest.raises(InvalidArgument, match="cannot be read"):
        sign(store, tmp_path / "none.pem")
    private, public = write_keys(tmp_path, "locked", ec.generate_private_key(CURVES["P-256"]), password=b"secret")
    monkeypatch.delenv("SOFTLABELS_KEY_PASSWORD", raising=False)
    with pytest.raises(InvalidArgument, match="SOFTLABELS_KEY_PASSWORD"):
        sign(store, private)
    monkeypatch.setenv("SOFTLABELS_KEY_PASSWORD", "wrong")
    with pytest.raises(InvalidArgument, match="no usable key"):
        sign(store, private)
    monkeypatch.setenv("SOFTLABELS_KEY_PASSWORD", "secret")
    sign(store, private)
    verify_signature(store, public)
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(StorageUnsupported, match=r"softlabels\[sign\]"):
        verify_signature(store, public)
    with pytest.raises(StorageUnsupported, match=r"^signatures: the package cryptography is not installed"):
        sign(store, private)


def test_signatures_travel_with_a_store_and_signing_again_replaces(store, keys, tmp_path):
    private, public = keys["P-256"]
    for _ in range(2):
        sign(store, private)
    sl.push(store, tmp_path / "copy")
    assert verify_signature(tmp_path / "copy", public).rows == 1797
    sl.describe(store, license="MIT")
    with pytest.raises(SignatureInvalid, match="does not cover description"):
        verify_signature(store, public)
    sign(store, private)
    assert verify_signature(store, public).rows == 1797


def test_the_commands_sign_and_verify(store, keys):
    private, public = keys["P-256"]
    done = CliRunner().invoke(cli, ["sign", str(store), "--key", str(private), "--json"])
    assert json.loads(done.stdout)["digest"] == sl.open(store).snapshot.digest
    assert CliRunner().invoke(cli, ["verify", str(store), "--public-key", str(public), "-q"]).exit_code == 0
    foreign = str(keys["foreign"][1])
    assert isinstance(CliRunner().invoke(cli, ["verify", str(store), "--key", foreign]).exception, SignatureInvalid)
    assert CliRunner().invoke(cli, ["verify", str(store), "--signature", "x"]).exit_code == 2
    assert issubclass(SignatureInvalid, StoreCorrupt)
