"""The scheme ``az``: Azure Blob Storage."""

from softlabels.store.storage.object_storage import ObjectStorage

open_location = ObjectStorage
