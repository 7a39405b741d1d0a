"""The order of examples: shuffles, steps, epochs, interleaving. Arithmetic without input or output."""
