"""Crop Faces and Paste Faces: edit the faces of an image at full resolution."""

from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..f2d.options import FACES, Faces, Order
from .notices import Progress, notify
from .schema_parts import IMAGE, min_score_input, numbering_inputs, search_aliases, supported_fields
from .sockets import Encoder, Regions


class F2DCropFaces(io.ComfyNode):
    """IMAGE to crops, masks and F2D_FACE_REGIONS."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="F2DCropFaces",
            display_name="Crop Faces",
            category=IMAGE,
            description="Crops every face of an image to a square that a second sampling pass can repaint. "
            "Paste Faces puts the results back.",
            inputs=[
                Encoder.Input("encoder", tooltip="Face detector, from Load Face Encoder."),
                io.Image.Input("image", tooltip="An image, or a batch of images, with any number of faces."),
                *_crop_inputs(),
                *numbering_inputs(
                    "How the faces in an image are numbered, and the order of their crops.",
                    "Number of the face, starting at 0, as shown in the preview. Used if faces is 'index'.",
                ),
                min_score_input("Lower it for profiles, drawings and blurred faces."),
            ],
            outputs=[
                io.Image.Output(
                    "crops",
                    display_name="crops",
                    tooltip="One square crop per face. Connect to VAE Encode.",
                ),
                io.Mask.Output(
                    "masks",
                    display_name="masks",
                    tooltip="The face in each crop, with a soft edge. Connect to Set Latent Noise Mask.",
                ),
                Regions.Output(
                    "regions",
                    display_name="regions",
                    tooltip="Where the crops come from. Connect to Paste Faces.",
                ),
                io.Image.Output(
                    "preview", display_name="preview", tooltip="The images with every face numbered."
                ),
            ],
            **search_aliases("face detailer", "face detail", "face crop", "inpaint face"),
            **supported_fields(has_intermediate_output=True),
        )

    @classmethod
    def execute(
        cls,
        encoder,
        image: torch.Tensor,
        faces: Faces,
        size: int,
        context: float,
        face_order: Order,
        face_index: int,
        min_score: float,
    ) -> io.NodeOutput:
        """Detect the faces of each image, select some and crop them."""
        from ..f2d.face.detection import draw_faces, sort_faces
        from ..f2d.face.regions import FaceRegions, crop_faces, find_region, select_faces
        from ..f2d.image import check_comfy, from_comfy, to_comfy

        photos, regions, drawn = from_comfy(image), [], []
        height, width = photos[0].shape[:2]
        progress = Progress(len(photos), "Image")
        for number, photo in enumerate(photos):
            progress.advance()
            found = encoder.find_faces(photo, min_score)
            chosen = select_faces(found, faces, face_order, face_index)
            regions += [find_region(face, number, width, height, context) for face in chosen]
            only = chosen[0] if len(chosen) == 1 else None
            drawn.append(draw_faces(photo, sort_faces(found, face_order), only))
        kept = FaceRegions(len(photos), width, height, tuple(regions))
        if missing := kept.images_without():
            places = f": {', '.join(str(place + 1) for place in missing)}" if len(photos) > 1 else ""
            notify(f"No face in {len(missing)} of {len(photos)} image(s){places}. They pass unchanged.")
        crops, masks = crop_faces(check_comfy(image).cpu().numpy(), kept, size)
        preview = to_comfy(drawn)
        return io.NodeOutput(
            torch.from_numpy(crops),
            torch.from_numpy(masks),
            kept,
            preview,
            ui=ui.PreviewImage(preview, cls=cls),
        )


class F2DPasteFaces(io.ComfyNode):
    """Crops and F2D_FACE_REGIONS to IMAGE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="F2DPasteFaces",
            display_name="Paste Faces",
            category=IMAGE,
            description="Pastes the edited crops of Crop Faces into the image they come from. "
            "An image without a face passes unchanged.",
            inputs=[
                io.Image.Input("image", tooltip="The image that was connected to Crop Faces."),
                io.Image.Input(
                    "crops",
                    lazy=True,
                    tooltip="The edited crops, in the order of Crop Faces and of any size. "
                    "Not computed if no face was found.",
                ),
                Regions.Input("regions", tooltip="From Crop Faces."),
                io.Int.Input(
                    "feather",
                    default=32,
                    min=0,
                    max=256,
                    step=1,
                    tooltip="Width of the soft edge in px of the mask. 0: the mask as it is.",
                ),
                io.Boolean.Input(
                    "color_match",
                    default=True,
                    tooltip="Give each crop the mean color and contrast of the face that it replaces.",
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    lazy=True,
                    tooltip="What to paste of each crop (white), one mask per crop or one for all. "
                    "If unconnected, an ellipse around the face.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "pasted",
                    display_name="image",
                    tooltip="The image with the edited faces; outside the masks it is unchanged.",
                )
            ],
            **search_aliases("face detailer", "face detail", "uncrop", "paste back"),
        )

    @classmethod
    def check_lazy_status(cls, regions, crops=None, masks=(), **kwargs) -> list[str]:
        """Request crops and masks only if there is a face: otherwise no sampler has to run."""
        needed = {"crops": crops, "masks": masks} if regions else {}
        return [name for name, value in needed.items() if value is None]

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        regions,
        feather: int,
        color_match: bool,
        crops: torch.Tensor | None = None,
        masks: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        from ..f2d.face.regions import paste_faces
        from ..f2d.image import check_comfy

        if not regions or crops is None:
            return io.NodeOutput(image)
        images, edited = (np.array(check_comfy(pixels).cpu()) for pixels in (image, crops))
        shapes = None if masks is None else masks.detach().float().cpu().numpy()
        pasted = paste_faces(images, edited, regions, shapes, feather, color_match)
        return io.NodeOutput(torch.from_numpy(pasted))


def _crop_inputs() -> list[Any]:
    """Declare which faces are cropped, and how."""
    return [
        io.Combo.Input(
            "faces",
            options=list(FACES),
            default=FACES[0],
            tooltip="Which faces of each image to crop: all of them, the largest, or the one at face_index.",
        ),
        io.Int.Input(
            "size",
            default=512,
            min=64,
            max=2048,
            step=64,
            tooltip="Side of the crops in px. Stable Diffusion 1.x generates best at 512.",
        ),
        io.Float.Input(
            "context",
            default=2.0,
            min=1.0,
            max=5.0,
            step=0.1,
            tooltip="Side of the crop relative to the face. More context keeps hair and light "
            "consistent, less gives the face more pixels.",
        ),
    ]
