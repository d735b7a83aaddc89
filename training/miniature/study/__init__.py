"""Measurements on the miniature, and the page that reports them."""
