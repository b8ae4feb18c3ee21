"""Evaluate a model on a data set."""
