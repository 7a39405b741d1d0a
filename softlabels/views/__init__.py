"""Views: augmented versions of an image that replay exactly from (seed, key, view), without stored parameters.

A policy is a list of transforms. Its parameters are random numbers that depend on the seed of the store, the key of the
example and the number of the view alone, so labels of a view can be used with the same pixels later, at any resolution.
"""

from softlabels.views.policy import POLICY_VERSION, Policy, center_mask, center_view, parse_policy, view_digest
from softlabels.views.transforms import Transform

__all__ = ["POLICY_VERSION", "Policy", "Transform", "center_mask", "center_view", "parse_policy", "view_digest"]
