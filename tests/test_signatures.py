"""Functions that pass options on show them in their signature."""

import inspect

import pytest

import softlabels as sl
from softlabels.signatures import with_options
from softlabels.training import Recipe


def test_options_take_the_place_of_the_mapping():
    @with_options({"steps": None, "lr": 0.1}, {"steps": int, "lr": float})
    def train(out, *, device=None, **options):
        return out, device, options

    assert str(inspect.signature(train)) == "(out, *, device=None, steps: int = None, lr: float = 0.1)"
    assert train("run", lr=0.2) == ("run", None, {"lr": 0.2})


def test_an_unknown_option_names_the_function_and_the_nearest_option(tmp_path):
    cases = {
        "encodings": ("encoding", lambda: sl.generate("digits", teacher=len, out=tmp_path, encodings="topk:4")),
        "step": ("steps", lambda: sl.train_student("labels", "digits", "mlp", tmp_path, step=3)),
        "targts": ("targets", lambda: sl.compare(["mlp"], "digits", targts={})),
    }
    for name, (nearest, call) in cases.items():
        with pytest.raises(
            TypeError, match=rf"\(\) got an unexpected keyword argument '{name}'. Did you mean '{nearest}'"
        ):
            call()


@pytest.mark.parametrize("function", [sl.generate, sl.plan, sl.merge, sl.compare, sl.export_model])
def test_functions_of_data_show_the_roles_of_columns(function):
    shown = inspect.signature(function).parameters
    opened = inspect.signature(sl.open_source).parameters
    assert {name: shown[name].default for name in ("input", "label", "id", "targets", "size")} == {
        name: opened[name].default for name in ("input", "label", "id", "targets", "size")
    }


@pytest.mark.parametrize("function", [sl.train_teacher, sl.train_student])
def test_functions_that_train_show_the_recipe(function):
    shown = inspect.signature(function).parameters
    assert {name: shown[name].default for name in vars(Recipe()) if name in shown} == vars(Recipe())
