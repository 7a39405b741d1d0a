"""Signatures in the format of OpenSSF model signing: a Sigstore bundle with a DSSE envelope, made with an EC key.

The signed statement lists files with their SHA-256. `model_signing` (1.1) reads what is written here and writes what is
read here, with keys P-256, P-384 and P-521. Needs the package cryptography.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softlabels.errors import InvalidArgument, SignatureInvalid, StorageUnsupported
from softlabels.store.format import canonical_json
from softlabels.store.format.fields import Fields

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
PASSWORD = "SOFTLABELS_KEY_PASSWORD"  # noqa: S105  the name of a variable
MAX_BUNDLE_BYTES = 2**26
MAX_FILES = 2**22
MAX_KEY_BYTES = 2**16


@dataclass(frozen=True)
class PublicKey:
    """A public key on an elliptic curve.

    Attributes:
        key: The key of cryptography.
    """

    key: EllipticCurvePublicKey

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> PublicKey:
        """Return the key in a PEM file; of a private key, the public key that belongs to it.

        Args:
            path: Path of the file.

        Raises:
            InvalidArgument: The file holds no key of a supported kind.
        """
        data = _read_key(path)
        serialization = _cryptography().serialization
        try:
            if b"PRIVATE KEY" in data:
                return read_private_key(path)[1]
            key = serialization.load_pem_public_key(data)
        except (ValueError, TypeError) as error:
            raise _bad_key(path, error) from None
        return cls(_checked(path, key))

    @property
    def hint(self) -> str:
        """Name of the key in bundles: SHA-256 of its PEM, hexadecimal."""
        serialization = _cryptography().serialization
        pem = self.key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(pem).hexdigest()


def read_private_key(path: str | os.PathLike[str]) -> tuple[EllipticCurvePrivateKey, PublicKey]:
    """Return the private key in a PEM file, and its public key.

    The password of an encrypted key is read from the variable ``SOFTLABELS_KEY_PASSWORD``.

    Args:
        path: Path of the file.

    Raises:
        InvalidArgument: The file holds no key of a supported kind, or the password is missing or wrong.
    """
    data = _read_key(path)
    password = os.environ.get(PASSWORD)
    is_encrypted = b"ENCRYPTED" in data
    if is_encrypted and password is None:
        raise InvalidArgument(f"{path}: the key is encrypted, got no password; expected it in {PASSWORD}. Set it")
    serialization = _cryptography().serialization
    try:
        key = serialization.load_pem_private_key(data, password.encode() if is_encrypted and password else None)
    except (ValueError, TypeError) as error:
        raise _bad_key(path, error) from None
    return key, PublicKey(_checked(path, key.public_key()))


def sign_files(key: EllipticCurvePrivateKey, name: str, files: Mapping[str, bytes]) -> bytes:
    """Return the bundle of a signature over files.

    Args:
        key: Private key.
        name: Name of what is signed.
        files: SHA-256 of each file by its name.
    """
    names = sorted(files)
    root = hashlib.sha256(b"".join(files[file] for file in names)).hexdigest()
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": PREDICATE,
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": []},
            "resources": [{"name": file, "algorithm": "sha256", "digest": files[file].hex()} for file in names],
        },
    }
    payload = json.dumps(statement, indent=2).encode()
    public = PublicKey(key.public_key())
    signature = key.sign(_authenticated(payload), _cryptography().ec.ECDSA(_hash_of(public.key)))
    return _to_bytes(payload, signature, public.hint)


def _to_bytes(payload: bytes, signature: bytes, hint: str | None) -> bytes:
    """Return the bundle as it is written here, which has one spelling."""
    bundle = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return json.dumps(bundle, separators=(",", ":")).encode()


def signed_files(data: bytes, key: PublicKey, place: str, *, is_foreign: bool = False) -> dict[str, bytes]:
    """Return the SHA-256 of each file that a bundle signs, by its name.

    Args:
        data: Bytes of the bundle.
        key: Key that must have signed it.
        place: Location of the bundle, for messages.
        is_foreign: If True, the bundle may be spelled in another way than `sign_files` does, and have more fields.

    Raises:
        SignatureInvalid: The bundle is damaged, of another key, or of another format.
    """
    try:
        return _signed_files(data, key, is_foreign=is_foreign)
    except (ValueError, RecursionError) as error:
        raise SignatureInvalid(
            f"{place}: the signature is not valid, got {error}; expected one of the key {key.hint}. Do not use the "
            "store, or check the key"
        ) from None


def _signed_files(data: bytes, key: PublicKey, *, is_foreign: bool) -> dict[str, bytes]:
    bundle = _json(data)
    if bundle.text("mediaType") != MEDIA_TYPE:
        raise ValueError(f"the media type {bundle.text('mediaType')!r:.80}")
    hint = bundle.object("verificationMaterial").object("publicKey").optional_text("hint")
    if hint is not None and hint != key.hint:
        raise ValueError(f"a signature of another key, {hint!r:.80}")
    envelope = bundle.object("dsseEnvelope")
    if envelope.text("payloadType") != PAYLOAD_TYPE:
        raise ValueError(f"the payload type {envelope.text('payloadType')!r:.80}")
    encoded = envelope.get("payload")
    if not isinstance(encoded, str):
        raise ValueError("no payload")  # noqa: TRY004  one type for all damage
    payload = base64.b64decode(encoded, validate=True)
    signatures = envelope.items("signatures", 1)
    if len(signatures) != 1:
        raise ValueError("no signature")
    signature = base64.b64decode(Fields(signatures[0], "signatures[0]").text("sig"), validate=True)
    cryptography = _cryptography()
    try:
        key.key.verify(signature, _authenticated(payload), cryptography.ec.ECDSA(_hash_of(key.key)))
    except cryptography.InvalidSignature:
        raise ValueError("a signature that does not belong to its content") from None
    if not is_foreign and data != _to_bytes(payload, signature, hint):
        raise ValueError("a bundle in another spelling than softlabels sign writes")
    return _resources(_json(payload))


def _resources(statement: Fields) -> dict[str, bytes]:
    """Return the files of a statement."""
    if statement.text("_type") != STATEMENT or statement.text("predicateType") != PREDICATE:
        raise ValueError(f"a statement of type {statement.text('predicateType')!r:.80}")
    predicate = statement.object("predicate")
    method = predicate.object("serialization").text("method")
    if method != "files":
        raise ValueError(f"files hashed by the method {method!r:.40}, where only 'files' is supported")
    files: dict[str, bytes] = {}
    for index, item in enumerate(predicate.items("resources", MAX_FILES)):
        resource = Fields(item, f"resources[{index}]")
        name = resource.text("name")
        if resource.text("algorithm") != "sha256" or name in files:
            raise ValueError(f"{resource.path('name')}: {name!r:.80}, hashed otherwise or twice")
        files[name] = bytes.fromhex(resource.hash("digest"))
    subjects = statement.items("subject", 1)
    root = Fields(subjects[0] if subjects else None, "subject").object("digest").hash("sha256")
    if hashlib.sha256(b"".join(files.values())).hexdigest() != root:
        raise ValueError("a list of files that does not match its digest")
    return files


def _json(data: bytes) -> Fields:
    if len(data) > MAX_BUNDLE_BYTES:
        raise ValueError(f"{len(data):,} bytes")
    return Fields(json.loads(data.decode(), object_pairs_hook=canonical_json.unique))


def _authenticated(payload: bytes) -> bytes:
    """Return what is signed: the pre-authentication encoding of DSSE."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _hash_of(key: EllipticCurvePublicKey) -> HashAlgorithm:
    """Return the hash that goes with a curve, as model signing chooses it."""
    hashes = _cryptography().hashes
    by_size: dict[int, HashAlgorithm] = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
    return by_size[key.curve.key_size]


def _read_key(path: str | os.PathLike[str]) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise InvalidArgument(f"{path}: cannot be read, got {error.strerror}; expected a key in PEM") from None
    if len(data) > MAX_KEY_BYTES:
        raise _bad_key(path, ValueError("a file of more than 64 KiB"))
    return data


def _checked(path: str | os.PathLike[str], key: Any) -> EllipticCurvePublicKey:
    curve = getattr(getattr(key, "curve", None), "name", type(key).__name__)
    if curve not in {"secp256r1", "secp384r1", "secp521r1"}:
        raise _bad_key(path, ValueError(f"a key of kind {curve}"))
    return key  # type: ignore[no-any-return]


def _bad_key(path: str | os.PathLike[str], error: Exception) -> InvalidArgument:
    return InvalidArgument(
        f"{path}: no usable key, got {str(error).splitlines()[0]:.200}; expected an EC key P-256, P-384 or P-521 in "
        "PEM. Make one with openssl ecparam -name prime256v1 -genkey -noout"
    )


def _cryptography() -> Any:
    """Return the parts of the package cryptography that are used.

    Raises:
        StorageUnsupported: It is not installed.
    """
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ModuleNotFoundError as error:
        raise StorageUnsupported(
            "signatures: the package cryptography is not installed. Run pip install 'softlabels[sign]'"
        ) from error
    from types import SimpleNamespace

    return SimpleNamespace(InvalidSignature=InvalidSignature, ec=ec, hashes=hashes, serialization=serialization)
