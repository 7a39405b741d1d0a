"""Checks and widening of float16 by its bits agree with those of float32."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from softlabels.encodings import halves

EDGES = [0x0000, 0x8000, 0x8001, 0x8400, 0xBC00, 0xFBFF, 0xFC00, 0xFC01, 0xFFFF, 0x7BFF, 0x7C00, 0x7C01]
BITS = arrays(np.uint16, st.tuples(st.integers(0, 4), st.integers(1, 4)),
              elements=st.sampled_from(EDGES) | st.integers(0, 2**16 - 1))  # fmt: skip


@given(BITS)
def test_finite_values(bits):
    """NaN and both infinities are found."""
    assert halves.all_finite(bits.view(np.float16)) == np.isfinite(bits.view(np.float16)).all()


@given(BITS, st.booleans())
def test_falling_values(bits, ordered):
    """Exactly rows of negative numbers that begin finite and never rise."""
    values = (np.sort(bits, axis=1) if ordered else bits).view(np.float16)
    wide = values.astype(np.float32)
    falls = (wide[:, 1:] <= wide[:, :-1]).all() and not np.isnan(wide).any()
    negative = np.signbit(wide).all()
    expected = falls and negative and np.isfinite(wide[:, 0]).all()
    assert halves.all_negative_and_falling(values) == expected


@pytest.mark.parametrize("share", [1, 100, 300])
def test_widened_values_are_those_of_float32(share):
    """All numbers of half precision, zeros, subnormal and infinite ones among few others or alone."""
    every = np.arange(2**16, dtype=np.uint16)
    normal = every[((every & 0x7C00) != 0) & ((every & 0x7C00) != 0x7C00)]
    special = np.setdiff1d(every, normal)
    bits = np.concatenate([np.resize(normal, share * len(special)), special]).reshape(-1, 2)
    wide = halves.widened(bits.view(np.float16))
    np.testing.assert_array_equal(wide.view(np.uint32), bits.view(np.float16).astype(np.float32).view(np.uint32))


def test_an_array_of_other_strides_is_widened():
    values = np.linspace(-9, 9, 600).astype(np.float16).reshape(20, 30)[::2, 5::3]
    np.testing.assert_array_equal(halves.widened(values), values.astype(np.float32))
