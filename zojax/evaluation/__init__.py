"""What a model is worth on a data set."""
