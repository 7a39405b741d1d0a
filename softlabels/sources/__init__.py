"""DATA: examples with keys, from tables (Parquet, CSV, JSON lines, Arrow), NumPy archives, arrays and datasets."""

from softlabels.keys import as_keys, content_keys, fingerprint, id_keys
from softlabels.sources.class_gaps import check_classes, describe_gaps, missing_classes
from softlabels.sources.class_labels import order_names
from softlabels.sources.description import SourceDescription, describe_source
from softlabels.sources.distinct import DistinctSource
from softlabels.sources.map_style import DatasetSource
from softlabels.sources.opening import DataLike, as_source, open_source
from softlabels.sources.pictures import map_images, map_masks
from softlabels.sources.protocol import Columns, Source, Target, UnusedColumn
from softlabels.sources.sequences import TokenSource, input_keys
from softlabels.sources.sized import SizedSource
from softlabels.sources.structure import Ragged, join_inputs, map_arrays

__all__ = [
    "Columns",
    "DataLike",
    "DatasetSource",
    "DistinctSource",
    "Ragged",
    "SizedSource",
    "Source",
    "SourceDescription",
    "Target",
    "TokenSource",
    "UnusedColumn",
    "as_keys",
    "as_source",
    "check_classes",
    "content_keys",
    "describe_gaps",
    "describe_source",
    "fingerprint",
    "id_keys",
    "input_keys",
    "join_inputs",
    "map_arrays",
    "map_images",
    "map_masks",
    "missing_classes",
    "open_source",
    "order_names",
]
