"""Every number of a training run, as dataclasses: the paper's values are the defaults, and what the paper does not give says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..f2d.mapping import Positional

Loss = Literal["cgdr", "reconstruction", "masked"]
Precision = Literal["no", "fp16", "bf16"]

# CelebAMask-HQ names of what belongs to the identity region M. The paper says only "identity region" (Sec. 3.4).
IDENTITY_CLASSES = (
    "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "nose", "mouth", "u_lip", "l_lip", "hair",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """How `f2d-train prepare` fills a cache."""

    photos: str = ""  # folder of photos
    out: str = ""  # the cache
    base: str = ""  # Stable Diffusion, for its VAE: folder in diffusers layout
    msid: str = ""  # identity encoder
    expression: str = ""  # Deep3DFaceRecon; "" = no expressions in the cache
    parser: str = ""  # SegFormer face-parsing folder, or BiSeNet's .pth; "" = M from the dataset's maps ("fastcomposer" only)
    detector: str = ""  # YuNet; "" where the photos are aligned the FFHQ way
    aligned: bool = False  # photos are FFHQ crops
    layout: Literal["photos", "fastcomposer"] = "photos"  # "fastcomposer": FFHQ with maps of persons beside the photos
    image_size: int = 512  # px; Stable Diffusion 1.4
    classes: tuple[str, ...] = IDENTITY_CLASSES
    shard_size: int = 512  # photos
    batch_size: int = 8  # photos at once
    min_score: float = 0.6  # of the detector
    workers: int = 4  # threads that read and align photos
    device: str = ""  # "" = the best there is


@dataclass(frozen=True, kw_only=True)
class MapperTrainingConfig:
    """How `f2d-train mapper` trains f_map; the defaults are the paper's run."""

    cache: str = ""  # of `f2d-train prepare`
    base: str = ""  # Stable Diffusion: folder in diffusers layout
    out: str = ""  # run folder
    init: str = ""  # mapper to start from; "" = random
    loss: Loss = "cgdr"  # Eq. 7; "reconstruction" is Eq. 1, "masked" Eq. 8 (Table 5)
    expression_guidance: bool = True  # Eq. 4; False is Eq. 9 (Table 4)
    expression_drop: float = 0.2  # "drop v_exp with a probability of 0.2" (Sec. 3.3)
    prompt: str = "A photo of S*"  # Sec. 3.4
    class_prompt: str = "A photo of a person"  # Sec. 3.4
    positional: Positional = "replace"  # as the official mapper; not in the paper
    hidden_dim: int = 1536  # not in the paper; the official mapper's
    dropout: float = 0.1  # Sec. 4.1 names dropout, not its rate; the official mapper's
    steps: int = 100_000  # Sec. 4.1
    batch_size: int = 32  # Sec. 4.1; over all processes and accumulated steps
    accumulate: int = 1  # steps
    lr: float = 1e-5  # Sec. 4.1
    weight_decay: float = 1e-2  # not in the paper; AdamW's default
    warmup: int = 0  # steps; not in the paper, which gives one learning rate
    decay: int = 0  # last steps, in which the learning rate falls linearly to 0; not in the paper
    clip: float = 1.0  # gradient norm; not in the paper
    ema: float = 0.0  # decay; 0 = off, as the paper does not mention it
    flip: bool = True  # "Only horizontal flip is used for data augmentation" (Sec. 4.1)
    precision: Precision = "no"
    compile: bool = False  # torch.compile the U-Net
    seed: int = 0
    save_every: int = 1000  # steps
    keep: int = 3  # checkpoints
    log_every: int = 50  # steps
    sample_every: int = 0  # steps; 0 = no sample grids
    sample_prompts: tuple[str, ...] = ("A photo of S*", "A photo of S* as a chef", "A photo of S* in a snowy forest")
    sample_faces: int = 4  # of the cache
    sample_steps: int = 30
    workers: int = 2  # loader processes; 0 = in the training process


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

    data: str = ""  # folder with train.rec/.idx, class folders, or WebDataset shards
    out: str = ""  # run folder
    verification: str = ""  # class folders for {anchor, positive, negative} triplets; "" = none
    depths: tuple[int, ...] = (3, 6, 9, 12)  # Sec. 4.1; (12,) = plain ArcFace
    image_size: int = 112  # px
    patch_size: int = 8  # px; not in the paper, the official encoder's
    embed_dim: int = 384  # not in the paper, the official encoder's
    depth: int = 12  # "12 transformer encoder layers" (Sec. 4.1)
    heads: int = 12  # not in the paper, the official encoder's
    scale: float = 64.0  # s of Eq. 3; not in the paper, ArcFace's
    margin: float = 0.5  # m of Eq. 3; not in the paper, ArcFace's
    epochs: int = 30  # Sec. 4.1
    batch_size: int = 1024  # Sec. 4.1; over all processes
    lr: float = 1e-3  # Sec. 4.1
    weight_decay: float = 0.1  # not in the paper; insightface's ViT recipe
    warmup_epochs: float = 3.0  # not in the paper; insightface's ViT recipe, a tenth of the epochs
    clip: float = 5.0  # gradient norm; not in the paper; insightface's
    sample_rate: float = 1.0  # share of the classes in a step's softmax (PartialFC); not in the paper
    flip: bool = True  # Sec. 4.1 names it for the mapper
    remap_labels: bool = False  # number the labels anew where some have no face
    precision: Precision = "no"
    compile: bool = False
    seed: int = 0
    save_every: int = 2000  # steps
    keep: int = 3  # checkpoints
    log_every: int = 50  # steps
    workers: int = 2


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How `f2d-train evaluate` draws and scores one method; the defaults are the paper's protocol (Sec. 4.2)."""

    method: str = ""  # its name in the report; names of presets are rows of Tables 3 to 5
    images: str = ""  # folder identity/prompt_index/seed.png; what is missing is drawn there if --base is given
    faces: str = ""  # folder of photos or videos, one for each identity
    out: str = ""  # the results: a .json
    # --- faces ---
    aligned: bool = False  # the faces are FFHQ crops already
    crops: str = ""  # where the FFHQ crops go; "" = the folder "faces" beside the results
    identities: int = 100  # at most, drawn at random; 0 = all
    frame: float = 0.5  # of a video, as a share of its length; the paper says only "a frame"
    face_size: int = 512  # px, of the crops
    detector: str = ""  # YuNet; for faces that are not aligned, for the encoder and for the identity metrics
    min_score: float = 0.6  # of the detector
    # --- what is drawn ---
    prompts: tuple[int, ...] = tuple(range(40))  # places in Table 7
    images_per_prompt: int = 4
    size: int = 512  # px, of the pictures; others cannot be scored
    base: str = ""  # Stable Diffusion 1.4: diffusers folder or single file; "" = only score what is there
    base_config: str = ""  # for a single file: diffusers folder with configs and tokenizer
    msid: str = ""  # identity encoder
    mapper: str = ""  # mapping network
    steps: int = 30  # Euler ancestral
    cfg: float = 7.0  # classifier-free guidance scale
    subject_from: float = 0.0  # share of the denoising with the class words; 0.2 = DSC with alpha 0.8 (Sec. E.2)
    draw_batch: int = 4  # pictures of one prompt at once
    # --- scores: weights as published; those left out leave their metric out ---
    adaface: str = ""  # IR-101 or IR-50 .ckpt
    sphereface: str = ""  # sphere20a_20171020.pth
    facenet: str = ""  # 20180402-114759-vggface2.pt
    clip: str = ""  # folder of CLIP ViT-H/14, laion2B
    siglip: str = ""  # folder of SigLIP
    score_batch: int = 64  # pictures at once
    cache: str = ""  # of what the judges saw, an SQLite file; "" = "cache.sqlite" beside the results
    fid: str = ""  # folder of real pictures; "" = no FID (Table 2)
    fid_weights: str = ""  # weights-inception-2015-12-05-6726825d.pth of torch-fidelity
    parameters: int = 0  # that the method trains, for Table 2; known where the mapper is given
    encoding_seconds: float = 0.0  # for one face, for Table 2; measured where the mapper is given
    seed: int = 0  # of the draw of identities
    device: str = ""  # "" = the best there is


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """How `f2d-train report` makes the pages of one or more evaluations."""

    results: tuple[str, ...] = ()  # .json of `f2d-train evaluate`, one for each method
    out: str = ""  # folder: report.html (self-contained), report.md and its pictures
    verification: tuple[str, ...] = ()  # verification.json of encoders (Fig. 4)
    encoders: tuple[str, ...] = ()  # or encoders to verify now
    triplets: str = ""  # aligned faces in class folders, for --encoders
    depths: tuple[int, ...] = ()  # for --encoders; () = each file's own
    draws: int = 10_000  # of the bootstrap
    grid_identities: int = 3  # faces with a grid of pictures
    grid_prompts: tuple[int, ...] = (2, 14, 25, 33, 38)  # places in Table 7; those that were drawn


@dataclass(frozen=True, kw_only=True)
class MiniatureConfig:
    """How `f2d-train miniature` makes the small world's models; the defaults are those of the shipped weights."""

    stage: Literal["train", "report", "ship", "unpack", "exam"] = "train"  # train, report, pack, begin with what is packed, examine it
    out: str = ""  # folder
    drawings: int = 40_000  # with one person, for the diffusion model
    pairs: int = 5_000  # with two
    autoencoder_steps: int = 3_500  # of 16 drawings
    diffusion_steps: int = 5_500  # of 32
    refine_steps: int = 4_000  # of 32; once more, from where the first ended
    finish_steps: int = 6_000  # of 32; a third time, mostly at the noise levels where a face takes shape
    people: int = 400  # for the identity encoders
    pictures: int = 30  # of each
    msid_epochs: int = 12
    expression_steps: int = 2_500  # of 32
    verifier_steps: int = 1_000  # of 64
    attribute_steps: int = 2_500  # of 64
    photos: int = 4_000  # for the mapper, each of another person
    mapper_steps: int = 2_000  # of 32
    seeds: tuple[int, ...] = ()  # of the mappers; none = 0, and 0,1,2 for the report
    presets: tuple[str, ...] = ("cgdr",)  # rows of Tables 3 to 5 to train; the report takes all rows, and trains what is missing
    seed: int = 0  # of everything else
    report_people: int = 12  # for report and exam; no stage of training has seen any of them
    report_prompts: int = 40  # for report and exam
    best_of: int = 8  # pictures, for the analogue of Fig. 7
    bf16: bool = True  # autocast
    compile: bool = False  # the U-Net's training; on a CPU this needs a C++ compiler


# Too small to learn anything: for tests.
MINIATURE_SMALL: dict[str, Any] = {
    "drawings": 64, "pairs": 16, "autoencoder_steps": 4, "diffusion_steps": 4, "refine_steps": 2, "finish_steps": 2, "people": 4, "pictures": 4, "msid_epochs": 1,
    "expression_steps": 2, "verifier_steps": 2, "attribute_steps": 2, "photos": 8, "mapper_steps": 2,
    "report_people": 2, "report_prompts": 3, "best_of": 2, "bf16": False,
}  # fmt: skip
