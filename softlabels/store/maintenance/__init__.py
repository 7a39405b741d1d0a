"""Work on whole stores: verify, describe, repair, merge, collect garbage."""
