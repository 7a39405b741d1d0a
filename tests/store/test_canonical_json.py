"""Canonical JSON: one spelling per value, strict and linear reading."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softlabels.store.format import canonical_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(
        st.characters(exclude_categories=["Cs"])
    ),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), children, max_size=4
    ),
    max_leaves=12,
)  # fmt: skip
OBJECTS = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), VALUES, max_size=5)


@given(value=OBJECTS)
def test_an_object_comes_back_from_its_spelling(value):
    assert canonical_json.parse(canonical_json.to_bytes(value), 2**20) == value


@given(value=OBJECTS)
def test_another_spelling_of_an_object_is_refused(value):
    data = json.dumps(value).encode()
    if data != canonical_json.to_bytes(value):
        with pytest.raises(ValueError, match="canonical spelling"):
            canonical_json.parse(data, 2**20)


@given(value=OBJECTS, name=st.sampled_from(["x", "rows", "digest"]))
def test_a_signed_object_is_refused_after_any_change(value, name):
    value.pop("digest", None)
    signed = canonical_json.sign(value)
    assert canonical_json.parse_signed(canonical_json.to_bytes(signed), 2**20) == signed
    with pytest.raises(ValueError, match="digest does not match"):
        canonical_json.parse_signed(canonical_json.to_bytes(signed | {name: "changed"}), 2**20)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("copies", [(0, 1), (0, 99_999), (99_998, 99_999)])
def test_a_duplicate_key_among_very_many_is_refused_in_linear_time(copies):
    """Comparing every key with every other would take 90 seconds."""
    names = [f"k{index:05}" for index in range(100_000)]
    names[copies[1]] = names[copies[0]]
    data = ("{" + ",".join(f'"{name}":0' for name in names) + "}").encode()
    assert len(data) > 9 * 10**5
    with pytest.raises(ValueError, match=f"the key '{names[copies[0]]}' stands there twice"):
        canonical_json.parse(data, 2**21)


@pytest.mark.parametrize("depth", [33, 700, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nesting_above_the_bound_is_refused(depth, opening, closing):
    data = f'{{"a":{opening * depth}0{closing * depth}}}'.encode()
    with pytest.raises(ValueError, match="nested too deeply"):
        canonical_json.parse(data, 2**20)


def test_nesting_up_to_the_bound_is_read():
    depth = canonical_json.MAX_DEPTH - 1
    value = canonical_json.parse(b'{"a":' + b"[" * depth + b"]" * depth + b"}", 2**20)
    assert canonical_json.to_bytes(value).count(b"[") == depth


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"[]", "an object is expected"),
        (b'{"a":NaN}', "NaN is not allowed"),
        (b'{"a":1e999}', "Out of range"),
        (b'{"a":"\xff"}', "utf-8"),
        (b'{"a":"\\ud800"}', "surrogates"),
        (b'{"a":' + b"9" * 5000 + b"}", "digits"),
        (b"{" + b" " * 2**20 + b"}", "expected at most 1,048,576"),
    ],
)
def test_a_document_that_no_writer_produces_is_refused(data, says):
    with pytest.raises(ValueError, match=says):
        canonical_json.parse(data, 2**20)
