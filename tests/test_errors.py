"""The family of errors: picklable, each with an exit code, each a builtin where one fits."""

import pickle

import pytest

from softlabels import errors

FAMILY = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_errors_survive_pickling_with_their_message(kind):
    error = kind("what, where, and what to do")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  our own bytes
    assert type(again) is kind
    assert str(again) == again.message == "what, where, and what to do"
    assert again.exit_code in {1, 2, 3, 75}


def test_builtins_catch_what_fits_them():
    assert issubclass(errors.DataNotFound, FileNotFoundError)
    assert issubclass(errors.StoreNotFound, FileNotFoundError)
    assert issubclass(errors.ShardMissing, FileNotFoundError)
    assert issubclass(errors.StoreConflict, FileExistsError)
    assert issubclass(errors.InvalidArgument, ValueError)
