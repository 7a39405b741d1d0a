"""Streaming labels into training: the order of rows, joining them to inputs, batches."""

from softlabels.loading.joining import Join, join
from softlabels.loading.order import Order, Window
from softlabels.loading.streaming import Batch, Loader, loader

__all__ = ["Batch", "Join", "Loader", "Order", "Window", "join", "loader"]
