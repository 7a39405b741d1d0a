"""Streaming labels into training: the order of rows, joining them to inputs, batches."""

from softlabels.loading.batch import Batch
from softlabels.loading.ensemble import Ensemble
from softlabels.loading.join import Join, join
from softlabels.loading.loader import Loader, loader
from softlabels.loading.mixture import Mixture, Part
from softlabels.loading.order.shuffle import Order, Window

__all__ = ["Batch", "Ensemble", "Join", "Loader", "Mixture", "Order", "Part", "Window", "join", "loader"]
