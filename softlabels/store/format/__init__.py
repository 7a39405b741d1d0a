"""Files of a store other than shards: how each is laid out, written and read."""
