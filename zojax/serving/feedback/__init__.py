"""Learning from use: which completions are remembered, and the route that takes their rewards."""
