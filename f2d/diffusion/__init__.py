"""Everything that knows Stable Diffusion's folders, tokenizer and text encoder."""
