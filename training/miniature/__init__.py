"""A small drawn world in which every part of the method exists, is trained from nothing, and has ground truth."""
