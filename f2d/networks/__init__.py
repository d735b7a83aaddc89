"""The networks of the method, and the face recognizers that score identity."""
