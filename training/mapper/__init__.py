"""Training of the mapping network (Sec. 3.3 and 3.4)."""
