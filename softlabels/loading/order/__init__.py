"""The order of rows: shuffles, steps, epochs. Arithmetic without input or output."""
