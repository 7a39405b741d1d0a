"""The scheme ``gs``: Google Cloud Storage."""

from softlabels.store.storage.object_storage import ObjectStorage

open_location = ObjectStorage
