"""The miniature: a small drawn world's Stable Diffusion, face encoder and judges, trained from nothing by `training.miniature`."""
