"""The examples in docstrings run and print what they say."""

import doctest
import importlib
import pkgutil

import pytest

import softlabels


def modules():
    return [module.name for module in pkgutil.walk_packages(softlabels.__path__, "softlabels.")]


@pytest.mark.parametrize("name", modules())
def test_the_examples_of_a_module_print_what_they_say(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.failed == 0
