"""The training package of Face2Diffusion."""
