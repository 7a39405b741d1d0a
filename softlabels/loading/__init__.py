"""Streaming labels into training: the order of rows, joining them to inputs, batches."""

from softlabels.loading.batch import Batch
from softlabels.loading.ensemble import Ensemble
from softlabels.loading.joining import Join, join
from softlabels.loading.mixture import Mixture, Part
from softlabels.loading.order import Order, Window
from softlabels.loading.streaming import Loader, loader

__all__ = ["Batch", "Ensemble", "Join", "Loader", "Mixture", "Order", "Part", "Window", "join", "loader"]
