"""A kind of data is one file: the module that defines it is found, listed and used."""

import numpy as np
import pytest

from softlabels.errors import InvalidArgument
from softlabels.sources import kinds, open_source

TOY = '''
"""Squares: one row per line, a number and its square."""
import numpy as np
from softlabels.sources.arrays import ArrayTable
from softlabels.sources.request import DataKind

def _open(request):
    numbers = np.array(request.path.read_text().split(), np.float64)
    return request.source(ArrayTable(request.spec, {"x": numbers, "squared": numbers**2}))

KIND = DataKind(name="squares", suffixes=(".squares",), open=_open)
'''


@pytest.fixture
def toy_kind(tmp_path, monkeypatch):
    (tmp_path / "kinds").mkdir()
    (tmp_path / "kinds" / "toy_squares.py").write_text(TOY)
    monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(tmp_path / "kinds")])
    kinds.data_kinds.cache_clear()
    yield
    kinds.data_kinds.cache_clear()


@pytest.mark.usefixtures("toy_kind")
def test_adding_a_kind_is_adding_a_file(tmp_path):
    (tmp_path / "d.squares").write_text("2\n3\n")
    assert open_source(tmp_path / "d.squares").inputs(np.arange(2)).tolist() == [[2, 4], [3, 9]]
    (tmp_path / "d.other").touch()
    with pytest.raises(InvalidArgument, match=r"supported: .*\.squares"):
        open_source(tmp_path / "d.other")


def test_suffixes_and_names_belong_to_one_kind_each():
    words = [
        word for kind in kinds.data_kinds() for word in (*kind.suffixes, *kind.names, *filter(None, [kind.prefix]))
    ]
    assert sorted(set(words)) == sorted(words)
    assert {".arrow", ".csv", ".jsonl", ".npz", ".parquet", ".tar", ".txt", "digits", "roads"} <= {*words}
