"""How a run is told: progress, metrics, TensorBoard, curves."""
