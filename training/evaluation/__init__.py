"""The paper's evaluation (Sec. 4.2)."""
