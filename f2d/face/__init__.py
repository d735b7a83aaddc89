"""From pixels to an aligned face: detection, landmarks and crops."""
