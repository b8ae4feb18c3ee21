"""What ``benchmarks/accelerator.py`` measures: one module per part, each in its own process."""
