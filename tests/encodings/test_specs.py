"""The suites over all encodings run a specification of each family."""

import pytest

from softlabels.encodings import parse
from softlabels.encodings.families import families
from softlabels.errors import InvalidArgument
from tests.encodings.specs import with_examples


def test_a_family_without_a_specification_in_a_list_is_run_by_its_example():
    examples = [family.example for family in families().values()]
    assert with_examples([]) == examples
    assert with_examples(["topk:3:q8"]) == ["topk:3:q8", *(spec for spec in examples if not spec.startswith("topk"))]


@pytest.mark.parametrize("name", families())
def test_the_example_is_a_specification_that_messages_show(name):
    family = families()[name]
    assert type(parse(family.example, classes=7)) is family
    with pytest.raises(InvalidArgument, match=f", such as {family.example}$"):
        parse(f"{name}:x:y:z:x:y", classes=40)
