"""The store: committed units of labels on disk, sealed snapshots of them, verified reading."""

from softlabels.store.collecting import Litter, collect_garbage
from softlabels.store.descriptor import Descriptor, default_geometry
from softlabels.store.evidence import UnitEvidence
from softlabels.store.files import Claims
from softlabels.store.merging import Donors, merge
from softlabels.store.reading import Store, open_store
from softlabels.store.snapshots import Snapshot, seal
from softlabels.store.verified import cache_directory
from softlabels.store.verifying import Problem, Report, describe_store, repair, verify
from softlabels.store.writing import StoreWriter, UnitWriter, create_or_open

__all__ = [
    "Claims",
    "Descriptor",
    "Donors",
    "Litter",
    "Problem",
    "Report",
    "Snapshot",
    "Store",
    "StoreWriter",
    "UnitEvidence",
    "UnitWriter",
    "cache_directory",
    "collect_garbage",
    "create_or_open",
    "default_geometry",
    "describe_store",
    "merge",
    "open_store",
    "repair",
    "seal",
    "verify",
]
