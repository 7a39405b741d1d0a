"""Loading of labels into training: the order of rows, the join with inputs, and batches."""

from softlabels.loading.batch import Batch
from softlabels.loading.ensemble import Ensemble
from softlabels.loading.join import join
from softlabels.loading.loader import Loader, loader
from softlabels.loading.mixture import Mixture, Part
from softlabels.loading.order.epoch import Join
from softlabels.loading.order.shuffle import Order, Window

__all__ = ["Batch", "Ensemble", "Join", "Loader", "Mixture", "Order", "Part", "Window", "join", "loader"]
