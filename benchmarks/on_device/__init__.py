"""What ``benchmarks/accelerator.py`` measures: a module a part, each in a process of its own."""
