"""Specifications of encodings for the suites that run over all of them."""

from softlabels.encodings.families import families


def with_examples(specs):
    """Return specifications, and the example of every family that has none among them, such as a new one."""
    listed = {spec.partition(":")[0] for spec in specs}
    return [*specs, *(family.example for name, family in families().items() if name not in listed)]
