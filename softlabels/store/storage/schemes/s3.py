"""The scheme ``s3``: Amazon S3 and services with its protocol."""

from softlabels.store.storage.object_storage import ObjectStorage

open_location = ObjectStorage
