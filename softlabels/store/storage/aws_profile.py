"""Credentials and region of Amazon's own tools, where obstore does not look itself.

obstore reads environment variables and the metadata service of cloud machines. The command line of AWS also reads
``~/.aws/credentials`` and ``~/.aws/config``, whose profiles hold keys, or name a role or a single sign-on.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softlabels.errors import StorageFailed

VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
             "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_SKIP_SIGNATURE")  # fmt: skip
"""Variables that obstore takes credentials from, or that say that there are none."""
REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")


def profile_options(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return options of obstore for what the profile in use adds to the environment.

    Args:
        environment: Environment variables.

    Raises:
        StorageFailed: The profile holds no keys, and the package boto3, which could log in, is not installed; or a file
            cannot be read.
    """
    name = environment.get("AWS_PROFILE", "default")
    profile = _profile(environment, name)
    config = {}
    if "region" in profile and not any(variable in environment for variable in REGIONS):
        config["region"] = profile["region"]
    if any(variable in environment for variable in VARIABLES):
        return {"config": config}
    if "aws_access_key_id" in profile:
        config["access_key_id"] = profile["aws_access_key_id"]
        config["secret_access_key"] = profile.get("aws_secret_access_key", "")
        if "aws_session_token" in profile:
            config["token"] = profile["aws_session_token"]
        return {"config": config}
    if not any(option.startswith(("sso_", "role_", "credential_")) for option in profile):
        return {"config": config}
    try:
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        raise StorageFailed(
            f"AWS profile {name!r}: logs in with more than keys, which the package boto3 does, got no boto3. Run pip "
            "install boto3, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    return {"config": config, "credential_provider": Boto3CredentialProvider(boto3.Session(profile_name=name))}


def _profile(environment: Mapping[str, str], name: str) -> dict[str, str]:
    """Return the options of a profile from both files; those of the credentials win."""
    home = Path(environment.get("HOME", "~")).expanduser() / ".aws"
    config = Path(environment.get("AWS_CONFIG_FILE", home / "config"))
    credentials = Path(environment.get("AWS_SHARED_CREDENTIALS_FILE", home / "credentials"))
    section = name if name == "default" else f"profile {name}"
    return _section(config, section) | _section(credentials, name)


def _section(path: Path, section: str) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(path.expanduser(), encoding="utf-8")
    except (configparser.Error, OSError, ValueError) as error:
        # The text of the error would quote lines of the file, which holds secrets.
        raise StorageFailed(f"{path}: cannot be read as a file of AWS profiles, got {type(error).__name__}") from None
    return dict(parser[section]) if parser.has_section(section) else {}
