"""The fidelity of a head is a record in memory and the same JSON as before on disk."""

import json
from pathlib import Path

import pytest

from softlabels.store.format.fields import Fields
from softlabels.store.format.head_fidelity import HeadFidelity

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*/snapshots/*.json"))
FIGURES = {"rows": 9, "kl": {"1": 0.25}, "mass": 0.5, "top1": 1.0, "entropy": 2.0, "error": 0.125}
UNITS = FIGURES | {"poorest": {"unit": 3} | FIGURES | {"rows": 4}}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.parts[-3])
def test_the_json_of_golden_stores_comes_back(path):
    for value in json.loads(path.read_text())["fidelity"].values():
        assert HeadFidelity.from_json(Fields(value)).to_json() == value


@pytest.mark.parametrize(
    ("value", "has_probe"),
    [
        pytest.param(FIGURES, True, id="probe"),
        pytest.param(FIGURES | {"units": UNITS}, True, id="probe and units"),
        pytest.param(UNITS | {"units": UNITS}, False, id="units in place of the probe"),
        pytest.param(FIGURES | {"units": FIGURES}, True, id="units without the poorest"),
    ],
)
def test_every_form_comes_back(value, has_probe):
    fidelity = HeadFidelity.from_json(Fields(value))
    assert fidelity.to_json() == value
    assert (fidelity.probe is not None) == has_probe
    assert fidelity.overall.kl == {"1": 0.25}


@pytest.mark.parametrize(
    "value",
    [
        {},
        FIGURES | {"error": None},
        FIGURES | {"units": 3},
        FIGURES | {"units": FIGURES | {"poorest": FIGURES}},
        FIGURES | {"units": FIGURES | {"poorest": FIGURES | {"unit": -1}}},
        {name: value for name, value in FIGURES.items() if name != "mass"},
    ],
    ids=["empty", "null error", "units are a number", "no unit", "negative unit", "no mass"],
)
def test_other_objects_are_refused(value):
    with pytest.raises(ValueError, match=r"."):
        HeadFidelity.from_json(Fields(value))
