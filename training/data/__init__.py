"""From photos to what training reads: the cache, face datasets and face parsing."""
