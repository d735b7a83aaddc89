"""S* in prompts: injection into token sequences, and export as an embedding."""
