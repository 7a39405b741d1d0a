"""The UCI handwritten digits that travel with the package (data/README.md)."""

from __future__ import annotations

import importlib.resources
from dataclasses import replace
from pathlib import Path

from softlabels.sources.kinds.parquet import open_parquet
from softlabels.sources.protocol import Source
from softlabels.sources.request import DataKind, OpenRequest


def digits_path() -> Path:
    """Return the file of digits inside the installed package, or in the data folder of a checkout."""
    packaged = Path(str(importlib.resources.files("softlabels.sources"))) / "bundled" / "digits.parquet"
    return packaged if packaged.exists() else Path(__file__).parents[3] / "data" / "digits.parquet"


def _open(request: OpenRequest) -> Source:
    path = digits_path()
    return replace(request, path=path).source(open_parquet(path, request.spec))


KIND = DataKind(name="digits", names=("digits",), open=_open)
