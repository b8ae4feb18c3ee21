"""A run directory and its life: begin, go on, chunks, stop, evaluate, finish."""
