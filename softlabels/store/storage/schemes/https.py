"""The scheme ``https``: sealed stores on web servers, read only."""

from softlabels.store.storage.http_storage import HttpStorage

open_location = HttpStorage
