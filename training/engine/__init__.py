"""What every training shares: the loop, the run folder, processes and optimization."""
