"""Pages, plots, tables and statistics of evaluations."""
