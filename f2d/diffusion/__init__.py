"""Stable Diffusion 1.x and 2.x on diffusers: model folders, text encoder, VAE, and prompts with S*.

folder.py               what a model folder is, and loading its parts
single_file_config.py   the configs that a single-file checkpoint lacks
clip_weights.py         CLIP's tensors in files, without building its networks
text_encoder.py         prompts to hidden states, with rows in place of token embeddings
vae.py                  images to latents
regions.py              a prompt for each part of the image
delayed.py              delayed subject conditioning
pipeline.py             prompts with S* to images
"""
