"""Every number of a training run, as dataclasses: the paper's values are the defaults, and what the paper does not give says so."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from ..f2d.networks.mapping import Positional

Loss = Literal["cgdr", "reconstruction", "masked"]
Precision = Literal["no", "fp16", "bf16"]


def option(default: Any, text: str = "", may_change: bool = False) -> Any:
    """Declare a field of a config that is also an option of the command.

    Args:
        default: the paper's value where it gives one.
        text: the option's help.
        may_change: whether a run may resume with another value.

    Returns:
        The dataclass field.
    """
    return field(default=default, metadata={"help": text, "may_change": may_change})


def changeable(config: Any) -> set[str]:
    """Name the fields of a config that may differ when a run resumes."""
    return {entry.name for entry in fields(config) if entry.metadata.get("may_change")}


# CelebAMask-HQ names of what belongs to the identity region M. The paper says only "identity region" (Sec. 3.4).
IDENTITY_CLASSES = (
    "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "nose", "mouth", "u_lip", "l_lip", "hair",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """How `f2d-train prepare` fills a cache."""

    photos: str = option("", "folder of photos")
    out: str = option("", "the cache")
    base: str = option("", "Stable Diffusion, for its VAE: folder in diffusers layout")
    msid: str = option("", "identity encoder")
    expression: str = option("", "Deep3DFaceRecon; '' = no expressions in the cache")
    parser: str = option(
        "",
        'SegFormer face-parsing folder, or BiSeNet\'s .pth; "" = M from the dataset\'s maps ("fastcomposer" only)',
    )
    detector: str = option("", "YuNet; '' where the photos are aligned the FFHQ way")
    aligned: bool = option(False, "photos are FFHQ crops")
    layout: Literal["photos", "fastcomposer"] = option(
        "photos", "'fastcomposer': FFHQ with maps of persons beside the photos"
    )
    image_size: int = option(512, "px; Stable Diffusion 1.4")
    classes: tuple[str, ...] = option(IDENTITY_CLASSES, "")
    shard_size: int = option(512, "photos")
    batch_size: int = option(8, "photos at once")
    min_score: float = option(0.6, "of the detector")
    workers: int = option(4, "threads that read and align photos")
    device: str = option("", "'' = the best there is")


@dataclass(frozen=True, kw_only=True)
class MapperTrainingConfig:
    """How `f2d-train mapper` trains f_map; the defaults are the paper's run."""

    cache: str = option("", "of `f2d-train prepare`")
    base: str = option("", "Stable Diffusion: folder in diffusers layout")
    out: str = option("", "run folder", may_change=True)
    init: str = option("", "mapper to start from; '' = random")
    loss: Loss = option("cgdr", "Eq. 7; 'reconstruction' is Eq. 1, 'masked' Eq. 8 (Table 5)")
    expression_guidance: bool = option(True, "Eq. 4; False is Eq. 9 (Table 4)")
    expression_drop: float = option(0.2, "'drop v_exp with a probability of 0.2' (Sec. 3.3)")
    prompt: str = option("A photo of S*", "Sec. 3.4")
    class_prompt: str = option("A photo of a person", "Sec. 3.4")
    positional: Positional = option("replace", "as the official mapper; not in the paper")
    hidden_dim: int = option(1536, "not in the paper; the official mapper's")
    dropout: float = option(0.1, "Sec. 4.1 names dropout, not its rate; the official mapper's")
    steps: int = option(100_000, "Sec. 4.1", may_change=True)
    batch_size: int = option(32, "Sec. 4.1; over all processes and accumulated steps")
    accumulate: int = option(1, "steps")
    lr: float = option(1e-5, "Sec. 4.1")
    weight_decay: float = option(1e-2, "not in the paper; AdamW's default")
    warmup: int = option(0, "steps; not in the paper, which gives one learning rate")
    decay: int = option(0, "last steps, in which the learning rate falls linearly to 0; not in the paper")
    clip: float = option(1.0, "gradient norm; not in the paper")
    ema: float = option(0.0, "decay; 0 = off, as the paper does not mention it")
    flip: bool = option(True, "'Only horizontal flip is used for data augmentation' (Sec. 4.1)")
    precision: Precision = option("no", "")
    compile: bool = option(False, "torch.compile the U-Net", may_change=True)
    seed: int = option(0, "")
    save_every: int = option(1000, "steps", may_change=True)
    keep: int = option(3, "checkpoints", may_change=True)
    log_every: int = option(50, "steps", may_change=True)
    sample_every: int = option(0, "steps; 0 = no sample grids", may_change=True)
    sample_prompts: tuple[str, ...] = option(
        ("A photo of S*", "A photo of S* as a chef", "A photo of S* in a snowy forest"), "", may_change=True
    )
    sample_faces: int = option(4, "of the cache", may_change=True)
    sample_steps: int = option(30, "", may_change=True)
    workers: int = option(2, "loader processes; 0 = in the training process", may_change=True)


# The rows of Tables 3 to 5. The encoders' rows differ in the cache: prepare it with ArcFace's weights.
PRESETS: dict[str, dict[str, Any]] = {
    "cgdr": {},
    "reconstruction": {"loss": "reconstruction"},
    "masked": {"loss": "masked"},
    "no-expression": {"expression_guidance": False},
    "arcface": {},
    "arcface-msf": {},
}
# What the cache's encoder must be for a preset: the depths of its features, and whether the shallow ones have norms.
PRESET_ENCODERS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "arcface": ((12,), (12,)),
    "arcface-msf": ((3, 6, 9, 12), (12,)),
}


@dataclass(frozen=True, kw_only=True)
class MSIDTrainingConfig:
    """How `f2d-train msid` trains the identity encoder; the defaults are the paper's run."""

    data: str = option("", "folder with train.rec/.idx, class folders, or WebDataset shards")
    out: str = option("", "run folder", may_change=True)
    verification: str = option("", "class folders for {anchor, positive, negative} triplets; '' = none")
    depths: tuple[int, ...] = option((3, 6, 9, 12), "Sec. 4.1; (12,) = plain ArcFace")
    image_size: int = option(112, "px")
    patch_size: int = option(8, "px; not in the paper, the official encoder's")
    embed_dim: int = option(384, "not in the paper, the official encoder's")
    depth: int = option(12, "'12 transformer encoder layers' (Sec. 4.1)")
    heads: int = option(12, "not in the paper, the official encoder's")
    scale: float = option(64.0, "s of Eq. 3; not in the paper, ArcFace's")
    margin: float = option(0.5, "m of Eq. 3; not in the paper, ArcFace's")
    epochs: int = option(30, "Sec. 4.1", may_change=True)
    batch_size: int = option(1024, "Sec. 4.1; over all processes")
    lr: float = option(1e-3, "Sec. 4.1")
    weight_decay: float = option(0.1, "not in the paper; insightface's ViT recipe")
    warmup_epochs: float = option(3.0, "not in the paper; insightface's ViT recipe, a tenth of the epochs")
    clip: float = option(5.0, "gradient norm; not in the paper; insightface's")
    sample_rate: float = option(1.0, "share of the classes in a step's softmax (PartialFC); not in the paper")
    flip: bool = option(True, "Sec. 4.1 names it for the mapper")
    remap_labels: bool = option(False, "number the labels anew where some have no face")
    precision: Precision = option("no", "")
    compile: bool = option(False, "", may_change=True)
    seed: int = option(0, "")
    save_every: int = option(2000, "steps", may_change=True)
    keep: int = option(3, "checkpoints", may_change=True)
    log_every: int = option(50, "steps", may_change=True)
    workers: int = option(2, "", may_change=True)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How `f2d-train evaluate` draws and scores one method; the defaults are the paper's protocol (Sec. 4.2)."""

    method: str = option("", "its name in the report; names of presets are rows of Tables 3 to 5")
    images: str = option(
        "", "folder identity/prompt_index/seed.png; what is missing is drawn there if --base is given"
    )
    faces: str = option("", "folder of photos or videos, one for each identity")
    out: str = option("", "the results: a .json")
    # --- faces ---
    aligned: bool = option(False, "the faces are FFHQ crops already")
    crops: str = option("", "where the FFHQ crops go; '' = the folder 'faces' beside the results")
    identities: int = option(100, "at most, drawn at random; 0 = all")
    frame: float = option(0.5, "of a video, as a share of its length; the paper says only 'a frame'")
    face_size: int = option(512, "px, of the crops")
    detector: str = option(
        "", "YuNet; for faces that are not aligned, for the encoder and for the identity metrics"
    )
    min_score: float = option(0.6, "of the detector")
    # --- what is drawn ---
    prompts: tuple[int, ...] = option(tuple(range(40)), "places in Table 7")
    images_per_prompt: int = option(4, "")
    size: int = option(512, "px, of the pictures; others cannot be scored")
    base: str = option(
        "", "Stable Diffusion 1.4: diffusers folder or single file; '' = only score what is there"
    )
    base_config: str = option("", "for a single file: diffusers folder with configs and tokenizer")
    msid: str = option("", "identity encoder")
    mapper: str = option("", "mapping network")
    steps: int = option(30, "Euler ancestral")
    cfg: float = option(7.0, "classifier-free guidance scale")
    subject_from: float = option(
        0.0, "share of the denoising with the class words; 0.2 = DSC with alpha 0.8 (Sec. E.2)"
    )
    draw_batch: int = option(4, "pictures of one prompt at once")
    # --- scores: weights as published; those left out leave their metric out ---
    adaface: str = option("", "IR-101 or IR-50 .ckpt")
    sphereface: str = option("", "sphere20a_20171020.pth")
    facenet: str = option("", "20180402-114759-vggface2.pt")
    clip: str = option("", "folder of CLIP ViT-H/14, laion2B")
    siglip: str = option("", "folder of SigLIP")
    score_batch: int = option(64, "pictures at once")
    cache: str = option("", "of what the judges saw, an SQLite file; '' = 'cache.sqlite' beside the results")
    fid: str = option("", "folder of real pictures; '' = no FID (Table 2)")
    fid_weights: str = option("", "weights-inception-2015-12-05-6726825d.pth of torch-fidelity")
    parameters: int = option(0, "that the method trains, for Table 2; known where the mapper is given")
    encoding_seconds: float = option(0.0, "for one face, for Table 2; measured where the mapper is given")
    seed: int = option(0, "of the draw of identities")
    device: str = option("", "'' = the best there is")


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """How `f2d-train report` makes the pages of one or more evaluations."""

    results: tuple[str, ...] = option((), ".json of `f2d-train evaluate`, one for each method")
    out: str = option("", "folder: report.html (self-contained), report.md and its pictures")
    verification: tuple[str, ...] = option((), "verification.json of encoders (Fig. 4)")
    encoders: tuple[str, ...] = option((), "or encoders to verify now")
    triplets: str = option("", "aligned faces in class folders, for --encoders")
    depths: tuple[int, ...] = option((), "for --encoders; () = each file's own")
    draws: int = option(10_000, "of the bootstrap")
    grid_identities: int = option(3, "faces with a grid of pictures")
    grid_prompts: tuple[int, ...] = option((2, 14, 25, 33, 38), "places in Table 7; those that were drawn")


@dataclass(frozen=True, kw_only=True)
class MiniatureConfig:
    """How `f2d-train miniature` makes the small world's models; the defaults are those of the shipped weights."""

    stage: Literal["train", "report", "ship", "unpack", "exam"] = option(
        "train", "train, report, pack, begin with what is packed, examine it", may_change=True
    )
    out: str = option("", "folder", may_change=True)
    drawings: int = option(40_000, "with one person, for the diffusion model")
    pairs: int = option(5_000, "with two")
    autoencoder_steps: int = option(3_500, "of 16 drawings")
    diffusion_steps: int = option(5_500, "of 32")
    refine_steps: int = option(4_000, "of 32; once more, from where the first ended")
    finish_steps: int = option(
        6_000, "of 32; a third time, mostly at the noise levels where a face takes shape"
    )
    people: int = option(400, "for the identity encoders")
    pictures: int = option(30, "of each")
    msid_epochs: int = option(12, "")
    expression_steps: int = option(2_500, "of 32")
    verifier_steps: int = option(1_000, "of 64")
    attribute_steps: int = option(2_500, "of 64")
    photos: int = option(4_000, "for the mapper, each of another person")
    mapper_steps: int = option(2_000, "of 32")
    seeds: tuple[int, ...] = option((), "of the mappers; none = 0, and 0,1,2 for the report", may_change=True)
    presets: tuple[str, ...] = option(
        ("cgdr",),
        "rows of Tables 3 to 5 to train; the report takes all rows, and trains what is missing",
        may_change=True,
    )
    seed: int = option(0, "of everything else")
    report_people: int = option(
        12, "for report and exam; no stage of training has seen any of them", may_change=True
    )
    report_prompts: int = option(40, "for report and exam", may_change=True)
    best_of: int = option(8, "pictures, for the analogue of Fig. 7", may_change=True)
    bf16: bool = option(True, "autocast")
    compile: bool = option(False, "the U-Net's training; on a CPU this needs a C++ compiler", may_change=True)


# Too small to learn anything: for tests.
MINIATURE_SMALL: dict[str, Any] = {
    "drawings": 64, "pairs": 16, "autoencoder_steps": 4, "diffusion_steps": 4, "refine_steps": 2, "finish_steps": 2, "people": 4, "pictures": 4, "msid_epochs": 1,
    "expression_steps": 2, "verifier_steps": 2, "attribute_steps": 2, "photos": 8, "mapper_steps": 2,
    "report_people": 2, "report_prompts": 3, "best_of": 2, "bf16": False,
}  # fmt: skip
