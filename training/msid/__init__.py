"""Training of the multi-scale identity encoder (Sec. 3.2)."""
