"""The miniature: a synthetic dataset on which every part of the method is trained from nothing."""
