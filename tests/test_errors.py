"""The family of errors: picklable, each with an exit code, each a builtin where one fits."""

import pickle
import re
from pathlib import Path

import pytest

from softlabels import errors
from softlabels_cli.main import EPILOG

FAMILY = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
ROOT = Path(__file__).parents[1]
CODES = {
    errors.WRONG_USAGE: {
        errors.InvalidArgument, errors.DataNotFound, errors.StoreNotFound, errors.StoreConflict,
        errors.StorageUnsupported,
    },
    errors.FOUND_BAD: {
        errors.InvalidData, errors.InvalidLogits, errors.TeacherRejected, errors.StoreCorrupt, errors.StoreIncomplete,
        errors.RunCorrupt, errors.ExportRejected,
    },
    errors.UNKNOWN: {errors.StorageUnknown},
}  # fmt: skip
"""Errors that do not exit with 1, by code; a subclass has the code of its base."""


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_errors_survive_pickling_with_their_message(kind):
    error = kind("what, where, and what to do")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  our own bytes
    assert type(again) is kind
    assert str(again) == again.message == "what, where, and what to do"


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_each_error_has_the_exit_code_of_its_kind(kind):
    codes = {code for code, kinds in CODES.items() if any(base in kinds for base in kind.__mro__)}
    assert {kind.exit_code} == (codes or {errors.FAILED})


def test_the_documented_exit_codes_are_those_of_the_errors():
    table = (ROOT / "docs" / "generation.md").read_text().partition("## Exit codes")[2]
    rows = re.findall(r"^\| ([0-9]+) \| (.+?) \|", table, re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == errors.EXIT_CODES
    assert all(f"{code:<4} {meaning}" in EPILOG for code, meaning in errors.EXIT_CODES.items())


def test_builtins_catch_what_fits_them():
    assert issubclass(errors.DataNotFound, FileNotFoundError)
    assert issubclass(errors.StoreNotFound, FileNotFoundError)
    assert issubclass(errors.ShardMissing, FileNotFoundError)
    assert issubclass(errors.StoreConflict, FileExistsError)
    assert issubclass(errors.InvalidArgument, ValueError)
