"""The synthetic dataset: scenes, how they are rendered, and their vocabulary."""
