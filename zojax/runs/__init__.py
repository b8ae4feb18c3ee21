"""A run directory and its life: begin, resume, train in chunks, stop, evaluate, finish."""
