"""The configs and the tokenizer of SD 1.x, which a single-file checkpoint lacks."""

from __future__ import annotations

_REPOSITORY = "stable-diffusion-v1-5/stable-diffusion-v1-5"
_FILES = ["model_index.json", "*/*.json", "tokenizer/*"]


def fetch_config() -> str:
    """Download them into the hub's own cache; return the folder, in diffusers layout."""
    from huggingface_hub import snapshot_download

    return snapshot_download(_REPOSITORY, allow_patterns=_FILES)


def find_config() -> str:
    """Find the folder that `fetch_config` made, without a connection.

    Returns:
        The folder, in diffusers layout.

    Raises:
        FileNotFoundError: it has not been downloaded.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return snapshot_download(_REPOSITORY, allow_patterns=_FILES, local_files_only=True)
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            "A single-file checkpoint needs the configs and tokenizer of SD 1.x, which are not on this "
            "machine. Run `f2d download sd-config`, or give a folder in diffusers layout with --config."
        ) from error
