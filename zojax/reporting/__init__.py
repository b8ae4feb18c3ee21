"""Report a run: progress, metrics, TensorBoard, curves."""
