"""From pixels to an aligned face: detection, landmarks and crops."""

try:
    import cv2  # noqa: F401
except ImportError as error:
    raise ImportError(
        "OpenCV is missing, or it cannot be loaded, so that faces cannot be found and aligned "
        f"({error}). Run `pip install opencv-python` with this Python."
    ) from error
