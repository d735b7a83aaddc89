"""Measurements on the miniature, and the pages that report them."""
