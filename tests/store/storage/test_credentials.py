"""Credentials: found where the tools of the clouds find them, and refused before the teacher loads."""

import http.client
import json
import uuid

import pytest

import softlabels as sl
from softlabels.errors import StorageFailed
from softlabels.store.storage.aws_profile import VARIABLES, profile_options
from softlabels.store.storage.object_storage import ObjectStorage
from softlabels.store.storage.retries import error_text
from tests.store.storage.object_store_server import BUCKET, environment, free_port, s3_server, use_server

pytest.importorskip("obstore", reason="object stores need the extra remote")
READING = ["s3:GetObject", "s3:ListBucket", "s3:GetBucketLocation"]


@pytest.fixture(scope="module")
def service():
    """A server that checks signatures and permissions; port, and keys of a writer and of a reader."""
    boto3 = pytest.importorskip("boto3")
    with s3_server() as port:
        with use_server(port):
            iam = boto3.client("iam", region_name="us-east-1")

        def keys(name, actions):
            statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
            document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
            iam.create_user(UserName=name)
            iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=document)
            key = iam.create_access_key(UserName=name)["AccessKey"]
            return key["AccessKeyId"], key["SecretAccessKey"]

        users = {"writer": keys("writer", ["s3:*"]), "reader": keys("reader", READING)}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("POST", "/moto-api/reset-auth", b"0")  # from now on, every request is checked
        connection.getresponse().read()
        yield port, users


@pytest.fixture
def bare(service, tmp_path, monkeypatch):
    """The server, a home without files and an environment without credentials."""
    port, users = service
    for name, value in environment(port).items():
        monkeypatch.setenv(name, value)
    for name in (*VARIABLES, "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{free_port()}")  # this machine is not in a cloud
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "never_loaded.py").write_text("raise AssertionError('the teacher was loaded')")
    return users


CASES = {
    "none": (lambda _users: None, "no credentials, got .*from the metadata service.*Set AWS_ACCESS_KEY_ID"),
    "unknown key": (lambda users: ("AKIA" + "X" * 16, users["writer"][1]), "403 Forbidden, InvalidAccessKeyId. Check"),
    "wrong secret": (lambda users: (users["writer"][0], "x" * 40), "SignatureDoesNotMatch.*secret key is wrong"),
    "read only": (lambda users: users["reader"], "403 Forbidden, AccessDenied.*permissions of the bucket"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_write_is_found_before_the_teacher_loads(bare, monkeypatch, case):
    choose, message = CASES[case]
    if keys := choose(bare):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys[0])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys[1])
    with pytest.raises(StorageFailed, match=message) as caught:
        sl.generate("digits", teacher="python:never_loaded:model", out=f"s3://{BUCKET}/{uuid.uuid4().hex}")
    assert caught.value.exit_code == 1
    assert all(secret not in str(caught.value) for _, secret in (*bare.values(), keys or bare["writer"]))


def profile(folder, keys, name="default", **options):
    """Write the keys to the file of credentials and the options to that of settings."""
    (folder / ".aws").mkdir(exist_ok=True)
    secrets = f"[{name}]\naws_access_key_id = {keys[0]}\naws_secret_access_key = {keys[1]}\n" if keys else ""
    (folder / ".aws" / "credentials").write_text(secrets)
    section = name if name == "default" else f"profile {name}"
    (folder / ".aws" / "config").write_text(f"[{section}]\n" + "".join(f"{k} = {v}\n" for k, v in options.items()))


@pytest.mark.parametrize("name", ["default", "team"])
def test_a_profile_of_the_command_line_of_aws_is_used(bare, tmp_path, monkeypatch, name):
    profile(tmp_path, bare["writer"], name, region="eu-west-1")
    if name != "default":
        monkeypatch.setenv("AWS_PROFILE", name)
    storage = ObjectStorage(f"s3://{BUCKET}/{uuid.uuid4().hex}")
    assert storage.put_if_absent("a", b"1")
    assert storage.read("a", 1) == b"1"
    assert profile_options()["config"]["region"] == "eu-west-1"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    assert profile_options() == {"config": {"region": "eu-west-1"}}, "the environment wins, as it does for aws"


def test_a_role_or_a_single_sign_on_is_left_to_boto3(bare, tmp_path, monkeypatch):
    profile(tmp_path, None, role_arn="arn:aws:iam::1:role/x", source_profile="other")
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    with pytest.raises(StorageFailed, match=r"'default': logs in with more than keys.*Run pip"):
        ObjectStorage(f"s3://{BUCKET}/x").read("a", 1)
    monkeypatch.undo()
    keys = "[other]\naws_access_key_id = a\naws_secret_access_key = b\n"
    (tmp_path / "credentials").write_text(keys)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / ".aws" / "config"))
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    provider = profile_options()["credential_provider"]
    assert provider.credentials.method == "assume-role"


def test_a_damaged_profile_is_named_and_not_quoted(bare, tmp_path):
    profile(tmp_path, None)
    (tmp_path / ".aws" / "credentials").write_text("aws_secret_access_key = hidden")
    with pytest.raises(StorageFailed, match="credentials: cannot be read as a file of AWS profiles") as caught:
        ObjectStorage(f"s3://{BUCKET}/x").read("a", 1)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(("scheme", "login"), [("gs", "gcloud auth"), ("az", "az login")])
def test_other_clouds_without_credentials_say_how_to_log_in(scheme, login):
    client = ObjectStorage(f"{scheme}://bucket/labels")._client
    error = OSError("Error performing GET http://metadata.google.internal/computeMetadata/v1/x: no such host")
    assert login in str(client.final("a", error))


def test_an_answer_is_named_by_its_status_and_code():
    text = "Error performing PUT http://h/b?X-Amz-Signature=s - Server returned non-2xx status code: 403 Forbidden: "
    body = "<?xml?>\n<Error><Code>AccessDenied</Code></Error>"
    assert error_text(OSError(text + body)) == "403 Forbidden, AccessDenied"
    assert error_text(OSError(f"{text}resolve_deny")) == "403 Forbidden"
