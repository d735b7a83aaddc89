"""Training for Face2Diffusion: the mapper with CGDR, and the multi-scale identity encoder."""
