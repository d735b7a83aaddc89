"""Small graphs for the images of the help pages: they run on the miniature and show a node in use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from face2diffusion.f2d.miniature import CFG, SIZE, STEPS
from face2diffusion.f2d.miniature.comfyui import CHECKPOINT
from support.graph import node

BUILT_IN = "miniature (built in)"
Prompt = dict[str, Any]


@dataclass(frozen=True)
class HelpGraph:
    """A graph in API form, and those of its nodes that are shown, in columns."""

    prompt: Prompt
    columns: tuple[tuple[str, ...], ...]

    def numbered(self) -> Prompt:
        """Returns the graph with numbers for names: with names, the frontend loses the images."""
        numbers = {name: str(number) for number, name in enumerate(self.prompt, 1)}

        def link(value: Any) -> Any:
            return [numbers[value[0]], value[1]] if isinstance(value, list) else value

        return {
            numbers[name]: {**node, "inputs": {key: link(value) for key, value in node["inputs"].items()}}
            for name, node in self.prompt.items()
        }

    def shown(self) -> list[list[int]]:
        """Returns the columns as the numbers of their nodes."""
        numbers = {name: number for number, name in enumerate(self.prompt, 1)}
        return [[numbers[name] for name in column] for column in self.columns]


def _encoder(detector: str = "none") -> Prompt:
    return {
        "encoder": node(
            "LoadFaceEncoder", msid=BUILT_IN, mapper=BUILT_IN, expression=BUILT_IN, detector=detector
        )
    }


def _person(name: str) -> Prompt:
    """A portrait and its identity, under the person's name."""
    return {
        f"photo {name}": node("LoadImage", image=f"miniature_{name}.png"),
        name: node(
            "EncodeFaceIdentity",
            encoder=["encoder", 0],
            image=[f"photo {name}", 0],
            alignment="FFHQ",
            face_order="largest",
            face_index=0,
            min_score=0.6,
        ),
    }


def _images(identity: str, text: str, count: Any = 1, positive: str = "text") -> Prompt:
    """From an identity to images."""
    return {
        "model": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "inject": node(
            "InjectSStar", clip=["model", 1], identity=[identity, 0], strength=1.0, placeholder="S*"
        ),
        "text": node("CLIPTextEncode", clip=["inject", 0], text=text),
        "nothing": node("CLIPTextEncode", clip=["model", 1], text=""),
        "latent": node("EmptyLatentImage", width=SIZE, height=SIZE, batch_size=count),
        "sampler": node(
            "KSampler",
            model=["model", 0],
            positive=[positive, 0],
            negative=["nothing", 0],
            latent_image=["latent", 0],
            seed=3,
            steps=STEPS,
            cfg=CFG,
            sampler_name="euler_ancestral",
            scheduler="normal",
            denoise=1.0,
        ),
        "decoded": node("VAEDecode", samples=["sampler", 0], vae=["model", 2]),
        "images": node("PreviewImage", images=["decoded", 0]),
    }


GRAPHS = {
    "LoadFaceEncoder": HelpGraph(
        {
            **_encoder(),
            **_person("ada"),
            "photo dora": node("LoadImage", image="miniature_dora.png"),
            "expression": node(
                "ExpressionReference",
                encoder=["encoder", 0],
                image=["photo dora", 0],
                strength=1.0,
                alignment="FFHQ",
            ),
            "face": node("PreviewImage", images=["ada", 1]),
            "measured": node("PreviewImage", images=["expression", 1]),
        },
        (("encoder", "photo ada", "photo dora"), ("ada", "expression"), ("face", "measured")),
    ),
    "F2DSaveIdentity": HelpGraph(
        {
            **_encoder(),
            **_person("ada"),
            "save": node("F2DSaveIdentity", identity=["ada", 0], filename="friends/ada", overwrite=True),
        },
        (("photo ada",), ("ada",), ("save",)),
    ),
    "F2DLoadIdentity": HelpGraph(
        {
            **_encoder(),
            "load": node("F2DLoadIdentity", encoder=["encoder", 0], identity_file="friends/ada.safetensors"),
            **_images("load", "a photo of S* as a chef", 4),
        },
        (("encoder",), ("load",), ("inject",), ("text",), ("images",)),
    ),
    "F2DMixIdentities": HelpGraph(
        {
            **_encoder(),
            **_person("ada"),
            **_person("fay"),
            "mix": node(
                "F2DMixIdentities",
                identity_1=["ada", 0],
                identity_2=["fay", 0],
                interpolation="spherical",
                **{f"weight_{number}": 1.0 for number in range(1, 7)},
            ),
            **_images("mix", "a photo of S* in the streets of rome", 4),
        },
        (("ada", "fay"), ("mix", "inject"), ("text", "images")),
    ),
    "F2DListIdentities": HelpGraph(
        {
            **_encoder(),
            **_person("ada"),
            **_person("bela"),
            "list": node("F2DListIdentities", identity_1=["ada", 0], identity_2=["bela", 0]),
            **_images("list", "a photo of S* as a king"),
        },
        (("ada", "bela"), ("list", "inject"), ("text", "images")),
    ),
    "F2DBatchConditioning": HelpGraph(
        {
            **_encoder(),
            **_person("ada"),
            **_person("bela"),
            "list": node("F2DListIdentities", identity_1=["ada", 0], identity_2=["bela", 0]),
            "batch": node("F2DBatchConditioning", conditioning=["text", 0]),
            **_images("list", "a photo of S* as a king", ["batch", 1], "batch"),
        },
        (("list", "inject"), ("text", "batch", "latent"), ("images",)),
    ),
    "F2DExportEmbedding": HelpGraph(
        {
            **_encoder(),
            **_person("ada"),
            "model": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
            "export": node(
                "F2DExportEmbedding",
                identity=["ada", 0],
                clip=["model", 1],
                filename="ada",
                place=4,
                overwrite=True,
            ),
        },
        (("photo ada",), ("ada",), ("export", "model")),
    ),
    "F2DPickBest": HelpGraph(
        {
            **_encoder("face_detection_yunet_2023mar.onnx"),
            **_person("ada"),
            **_images("ada", "a photo of S*", 6),
            "best": node(
                "F2DPickBest",
                images=["decoded", 0],
                identity=["ada", 0],
                prompt="a photo of S*",
                keep=2,
                min_score=0.5,
                recogniser="none",
                text_projection="none",
            ),
            "kept": node("PreviewImage", images=["best", 0]),
        },
        (("ada", "decoded"), ("best",), ("kept",)),
    ),
    "F2DCropFaces": HelpGraph(
        {
            **_encoder("face_detection_yunet_2023mar.onnx"),
            **_person("ada"),
            **_images("ada", "a photo of S* as a chef"),
            "crop": node(
                "F2DCropFaces",
                encoder=["encoder", 0],
                image=["decoded", 0],
                faces="all",
                size=SIZE,
                context=1.5,
                face_order="largest",
                face_index=0,
                min_score=0.3,
            ),
            "crops": node("PreviewImage", images=["crop", 0]),
        },
        (("images",), ("crop",), ("crops",)),
    ),
}
