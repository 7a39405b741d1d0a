"""The store: committed units of labels on disk, sealed snapshots of them, verified reading."""

from softlabels.store.format.descriptor import Descriptor, default_geometry
from softlabels.store.format.head_fidelity import HeadFidelity
from softlabels.store.format.provenance import DataRecord, TeacherRecord
from softlabels.store.format.snapshot import Snapshot
from softlabels.store.maintenance.describe import HeadDescription, StoreDescription, describe_store
from softlabels.store.maintenance.garbage import Garbage, OrphanedFile, collect_garbage
from softlabels.store.maintenance.merge import Merged, merge
from softlabels.store.maintenance.repair import repair
from softlabels.store.maintenance.report import Problem, Report
from softlabels.store.maintenance.row_copier import RowCopier
from softlabels.store.maintenance.verify import verify
from softlabels.store.sealed_store import Store
from softlabels.store.sealing import seal
from softlabels.store.storage.registry import open_storage
from softlabels.store.storage.storage import Storage, UnitLocks
from softlabels.store.store_opening import check_digests, open_store
from softlabels.store.unit_statistics import UnitStatistics
from softlabels.store.writer import StoreWriter, UnitWriter, create_or_open

__all__ = [
    "DataRecord",
    "Descriptor",
    "Garbage",
    "HeadDescription",
    "HeadFidelity",
    "Merged",
    "OrphanedFile",
    "Problem",
    "Report",
    "RowCopier",
    "Snapshot",
    "Storage",
    "Store",
    "StoreDescription",
    "StoreWriter",
    "TeacherRecord",
    "UnitLocks",
    "UnitStatistics",
    "UnitWriter",
    "check_digests",
    "collect_garbage",
    "create_or_open",
    "default_geometry",
    "describe_store",
    "merge",
    "open_storage",
    "open_store",
    "repair",
    "seal",
    "verify",
]
