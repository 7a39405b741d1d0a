"""Costs follow from an estimate and two prices."""

import json

import pytest
from click.testing import CliRunner

from softlabels.errors import InvalidArgument
from softlabels.generation.costs import Costs
from softlabels_cli.main import cli
from softlabels_cli.output import cost_lines


def costs_of(*, seconds=7200.0, size=5 * 10**9, units=1000, price_hour=3.0, price_gb_month=0.5):
    return Costs.of(size=size, units=units, seconds=seconds, price_hour=price_hour, price_gb_month=price_gb_month)


def test_prices_give_what_labelling_and_keeping_cost():
    costs = costs_of()
    assert (costs.teacher_hours, costs.label, costs.keep_month) == (2.0, 6.0, 2.5)
    assert costs.requests == 6 * 1000 + 256
    assert costs.break_even_months == pytest.approx(2.4)
    assert costs.break_even_students == 2


@pytest.mark.parametrize(("price", "students"), [(0.0, 2), (0.5, 2), (1.2, 3), (6.0, 7)])
def test_labels_pay_from_the_first_student_whose_teacher_hours_exceed_them(price, students):
    costs = costs_of(price_gb_month=price)
    assert costs.break_even_students == students
    online, offline = (students - 1) * costs.label, costs.label + costs.keep_month
    assert online <= offline < students * costs.label


def test_without_prices_there_is_no_money():
    costs = costs_of(units=10, price_hour=None, price_gb_month=None)
    assert (costs.requests, costs.label, costs.keep_month, costs.break_even_students) == (70, None, None, None)
    with pytest.raises(InvalidArgument, match="price_hour: got -1"):
        costs_of(price_hour=-1)
    assert costs_of(seconds=0).break_even_students is None


def test_small_costs_are_not_printed_as_nothing():
    costs = costs_of(seconds=20.0, size=10**6, price_hour=0.0)
    assert cost_lines(costs) == [
        "less than 0.01 teacher hours; 6,256 requests to an object store",
        "labelling costs 0.00",
        "keeping the labels costs less than 0.01 per month",
        "after 0.0 months, keeping has cost as much as labelling again",
    ]


def test_a_dry_run_prints_them(tmp_path, monkeypatch):
    (tmp_path / "priced.py").write_text("def teach(x):\n    return x.float().flatten(1)[:, 10:20]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    command = ["generate", "digits", "--teacher", "python:priced:teach", "--out", "labels", "--dry-run", "--quiet"]
    prices = ["--price-hour", "2.5", "--price-gb-month", "0.02"]
    result = CliRunner().invoke(cli, [*command, *prices])
    assert result.exit_code == 0, result.output
    assert "teacher hours" in result.output
    assert "labels pay from student" in result.output
    document = json.loads(CliRunner().invoke(cli, [*command, *prices, "--json"]).stdout)
    assert document["costs"]["label"] == pytest.approx(2.5 * document["costs"]["teacher_hours"])
    assert not (tmp_path / "labels").exists()
