"""A shard read by plain Zarr, without our readers: named arrays with the values that were stored."""

import subprocess
import sys
import zipfile

import numpy as np
import pytest
import zarr

from softlabels.encodings import Column
from softlabels.store.shards import zarr_shard


def shards(store):
    return sorted((store / "shards").rglob("*.zarr.zip"))


def test_plain_zarr_shows_named_arrays_with_the_teachers_answers(sealed, digits, dense_logits):
    """Nothing of softlabels but what wrote the store; log-probabilities against dense float64."""
    log_p = dense_logits.astype(np.float64)
    log_p = log_p - np.logaddexp.reduce(log_p, axis=1, keepdims=True)
    row = 0
    for path in shards(sealed):
        group = zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r")
        ids, values, tail = group["logits/ids"][:], group["logits/values"][:], group["logits/tail"][:]
        truth = log_p[row : row + len(ids)]
        assert (ids == np.argsort(-truth, axis=1, kind="stable")[:, :4]).all()
        np.testing.assert_allclose(values, np.take_along_axis(truth, ids.astype(int), axis=1), rtol=2e-3, atol=1e-5)
        np.testing.assert_allclose(np.exp(tail[:, 0]), 1 - np.exp(values.astype(float)).sum(1), atol=5e-3)
        assert (group["key"][:] == digits.keys(row, row + len(ids))).all()
        assert not group["view"][:].any()
        about = group.attrs["softlabels"]
        assert about["heads"]["logits"]["encoding"] == "topk:4:f16"
        row += len(ids)
    assert row == len(digits)


def test_opening_a_shard_by_zarr_imports_nothing_of_ours(sealed):
    code = (
        f"import sys, zarr\nshard = zarr.storage.ZipStore({str(shards(sealed)[0])!r}, mode='r')\n"
        "assert zarr.open_group(shard, mode='r')['logits/ids'].shape == (400, 4)\n"
        "assert not [name for name in sys.modules if name.startswith('softlabels')]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_zip_is_whole_by_the_standard_library(sealed):
    for path in shards(sealed):
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_the_codecs_end_with_crc32c_and_zarr_finds_a_flipped_byte(sealed, tmp_path):
    path = shards(sealed)[0]
    data = bytearray(path.read_bytes())
    position = data.find(b"logits/values/c/0/0") + len(b"logits/values/c/0/0") + 40
    data[position] ^= 1
    damaged = tmp_path / "damaged.zarr.zip"
    damaged.write_bytes(data)
    group = zarr.open_group(zarr.storage.ZipStore(damaged, mode="r"), mode="r")
    # The zip's own checksum fails first; with that repaired, crc32c would.
    with pytest.raises((ValueError, zipfile.BadZipFile)):
        group["logits/values"][:]
    assert group["logits/values"].metadata.codecs[-1].to_dict()["name"] == "crc32c"


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float16", "float32"])
def test_an_array_survives_and_takes_no_more_memory_than_it_declares(codec, dtype):
    array = (np.random.default_rng(0).standard_normal((64, 5)) * 50).astype(dtype)
    data = zarr_shard.encode_array(array, codec)
    assert (zarr_shard.decode_array(data, Column(dtype, (5,)), 64) == array).all()
    with pytest.raises(ValueError, match="declares"):
        zarr_shard.decode_array(data, Column(dtype, (5,)), 63)
    with pytest.raises(ValueError, match=r"cut off|declares"):
        zarr_shard.decode_array(data[:-5], Column(dtype, (5,)), 64)
