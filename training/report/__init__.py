"""Pages, plots, tables and statistics of an evaluation."""
