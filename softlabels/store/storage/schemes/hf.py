"""The scheme ``hf``: sealed stores on the Hugging Face hub, read only."""

from softlabels.store.storage.hf_storage import HfStorage

open_location = HfStorage
