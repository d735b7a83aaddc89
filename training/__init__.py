"""Training for Face2Diffusion: the mapper with expression guidance and CGDR, and the multi-scale identity encoder."""
