"""Face2Diffusion for ComfyUI.

The folder that ComfyUI loads, and at once the Python package `face2diffusion`.
"""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Give ComfyUI the extension; imported here so that the package also loads without ComfyUI."""
    from .nodes import Face2DiffusionExtension

    return Face2DiffusionExtension()
