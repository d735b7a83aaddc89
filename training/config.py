"""Every setting of a training run, as dataclasses. Defaults are the paper's; others are marked."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from ..f2d.networks.mapping import Positional

Loss = Literal["cgdr", "reconstruction", "masked"]
Stage = Literal["train", "report", "ship", "unpack", "exam", "tune", "baselines", "refine", "ideas"]
Precision = Literal["no", "fp16", "bf16"]


def option(default: Any, text: str, may_change: bool = False, repeat: bool = False) -> Any:
    """Declare a field of a config that is also an option of the command.

    Args:
        default: the paper's value where it gives one.
        text: the option's help.
        may_change: whether a run may resume with another value. Paths may: what lies there is compared by its
            fingerprint.
        repeat: whether several values are given by repeating the option, instead of by commas.

    Returns:
        The dataclass field.
    """
    return field(default=default, metadata={"help": text, "may_change": may_change, "repeat": repeat})


def changeable(config: Any) -> set[str]:
    """Name the fields of a config that may differ when a run resumes."""
    return {entry.name for entry in fields(config) if entry.metadata.get("may_change")}


# CelebAMask-HQ names of what belongs to M. The paper says only "identity region" (Sec. 3.4).
IDENTITY_CLASSES = (
    "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "nose", "mouth", "u_lip",
    "l_lip", "hair",
)  # fmt: skip


# What may follow S* in training with --context-share; none of it is in Table 7, whose prompts evaluate.
CONTEXTS = (
    "as a doctor", "as a painter", "as a gardener", "as a musician", "wearing a raincoat", "wearing a suit",
    "in a kitchen", "on a beach", "in a snowy forest", "at a market", "by a lake", "in an office",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """How `f2d-train prepare` fills a cache."""

    examples: ClassVar[tuple[str, ...]] = (
        "f2d-train prepare --photos ffhq --base sd-v1-4 --msid msid.pt --expression epoch_20.pth "
        "--parser face-parsing --aligned --detector yunet.onnx --out cache",
        "torchrun --nproc_per_node 8 -m face2diffusion.training.cli prepare --photos ffhq --base sd-v1-4 ...",
    )

    photos: str = option("", "folder of photos; its subfolders are searched too")
    out: str = option("", "folder of the cache")
    base: str = option("", "Stable Diffusion, for its VAE: a folder in diffusers layout")
    msid: str = option("", "weights of the identity encoder")
    expression: str = option("", "weights of Deep3DFaceRecon; without them the cache has no expressions")
    parser: str = option(
        "",
        "face-parsing weights, a SegFormer folder or BiSeNet's .pth; without them M comes from the "
        "dataset's maps, which only the layout 'fastcomposer' has",
    )
    detector: str = option("", "weights of YuNet; with --aligned it finds the landmarks in the FFHQ crops")
    aligned: bool = option(
        False,
        "the photos are FFHQ crops; without --detector their average landmarks are used, which cut the face "
        "about 15 % smaller than generation does",
    )
    layout: Literal["photos", "fastcomposer"] = option(
        "photos", "'fastcomposer': FFHQ with segmentation maps beside the photos"
    )
    image_size: int = option(512, "side of the crops in px; Stable Diffusion 1.4 has 512")
    variants: int = option(
        0,
        "altered copies of each photo that are cached too, as faces of other people: other proportions and "
        "colors, drawn from the photo's name. Not in the paper",
    )
    classes: tuple[str, ...] = option(
        IDENTITY_CLASSES,
        "face-parsing classes of the identity region M; not in the paper, which leaves open whether hair "
        "belongs to M",
    )
    precision: Literal["no", "bf16"] = option(
        "no",
        "'bf16': VAE and face parser compute in bfloat16; v_id and v_exp stay in float32, as generation "
        "computes them. 'no' = all in float32",
    )
    shard_size: int = option(512, "photos per file of the cache")
    batch_size: int = option(8, "photos encoded at once")
    min_score: float = option(0.6, "minimum detection score of a face")
    workers: int = option(4, "processes that read and crop photos; 0 = none")
    device: str = option("", "device of the networks; by default the best available")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What every training has; the engine reads nothing else of a config."""

    out: str = option("", "run folder; rerun the command to resume", may_change=True)
    batch_size: int = option(32, "images per step, over all processes and accumulated parts")
    accumulate: int = option(1, "parts of a batch that each process computes in turn", may_change=True)
    lr: float = option(1e-3, "learning rate")
    weight_decay: float = option(1e-2, "weight decay of AdamW; not in the paper, AdamW's default")
    betas: tuple[float, float] = option((0.9, 0.999), "betas of AdamW; not in the paper, AdamW's default")
    eps: float = option(1e-8, "epsilon of AdamW; not in the paper, AdamW's default")
    clip: float = option(1.0, "maximum norm of the gradient, 0 = no clipping; not in the paper")
    ema: float = option(0.0, "decay of the average of the weights, 0 = none; not in the paper")
    precision: Precision = option("no", "half precision where safe; 'no' = float32")
    compile: bool = option(False, "compile the large network with torch.compile", may_change=True)
    device: str = option("", "device to train on; by default the best available", may_change=True)
    seed: int = option(0, "random seed")
    save_every: int = option(1000, "steps between checkpoints", may_change=True)
    keep: int = option(3, "weight files that are kept", may_change=True)
    log_every: int = option(50, "steps whose means are logged together", may_change=True)
    report_to: tuple[str, ...] = option(
        ("tensorboard",), "where curves go: tensorboard, wandb or both", may_change=True
    )
    workers: int = option(2, "loader processes per process; 0 = none", may_change=True)


@dataclass(frozen=True, kw_only=True)
class MapperTrainingConfig(TrainingConfig):
    """How `f2d-train mapper` trains f_map; the defaults are the paper's run."""

    examples: ClassVar[tuple[str, ...]] = (
        "f2d-train mapper --cache cache --base sd-v1-4 --out runs/cgdr --precision bf16",
        "f2d-train mapper --preset reconstruction --cache cache --base sd-v1-4 --out runs/reconstruction",
        "torchrun --nproc_per_node 8 -m face2diffusion.training.cli mapper --cache cache --base sd-v1-4 "
        "--out runs/cgdr",
    )

    cache: str = option("", "cache folder of `f2d-train prepare`", may_change=True)
    base: str = option("", "Stable Diffusion: a folder in diffusers layout", may_change=True)
    init: str = option("", "weights of a mapper to start from; by default random ones", may_change=True)
    loss: Loss = option("cgdr", "Eq. 7; 'reconstruction' is Eq. 1, 'masked' Eq. 8 (Table 5)")
    region_weight: float = option(
        1.0, "weight of the squared errors inside M, beside those outside; not in the paper"
    )
    relative_loss: bool = option(
        False,
        "divide each image's loss by the class prompt's error inside M, so that all timesteps count alike; "
        "not in the paper",
    )
    expression_guidance: bool = option(
        True, "feed expressions to the mapper (Eq. 4); without them Eq. 9 (Table 4)"
    )
    expression_scale: float = option(
        1.0, "what v_exp is multiplied by before it enters the mapper; not in the paper"
    )
    expression_drop: float = option(0.2, "'drop v_exp with a probability of 0.2' (Sec. 3.3)")
    prompt: str = option("A photo of S*", "prompt p with S* (Sec. 3.4)")
    class_prompt: str = option("A photo of a person", "class prompt p_c (Sec. 3.4)")
    positional: Positional = option(
        "replace",
        "relation of S* to the position embedding; not in the paper, the official mapper replaces it",
    )
    word_length: float = option(
        0.0,
        "length of the words of S*, in mean lengths of the class prompt's tokens with their positions; only "
        "their direction is trained. Not in the paper; 0 = the mapper's own length",
    )
    cross_photo: float = option(
        0.0,
        "share of the samples whose v_id comes from another photo of the same person, that is, from the same "
        "folder of photos; expression and target stay those of one photo. Not in the paper",
    )
    context_share: float = option(
        0.0,
        "share of the samples in which one of --contexts follows both prompts, p and p_c; not in the paper",
    )
    contexts: tuple[str, ...] = option(
        CONTEXTS, "what may follow the prompts; repeat the option for more", repeat=True
    )
    couples_every: int = option(
        0,
        "every n-th step has two people in each image: two photos side by side, and 'S* and S*' in --prompt; "
        "not in the paper, 0 = never",
    )
    identity_weight: float = option(
        0.0,
        "weight of the identity loss: 1 - cosine of v_id and the features of the face denoised in one step; "
        "for photos that are FFHQ crops. Not in the paper; 0 = none",
    )
    identity_below: int = option(250, "the identity loss is computed at timesteps below this one")
    identity_msid: str = option("", "weights of the identity encoder, for the identity loss", may_change=True)
    timestep_sampling: Literal["uniform", "logit-normal"] = option(
        "uniform", "distribution of the timesteps; 'logit-normal' prefers the middle ones. Not in the paper"
    )
    optimizer: Literal["adamw", "muon"] = option(
        "adamw", "'muon': Muon for the mapper's matrices, AdamW for the rest; not in the paper"
    )
    hidden_dim: int = option(1536, "width of the hidden layers; not in the paper, the official mapper's")
    dropout: float = option(
        0.1, "dropout rate; Sec. 4.1 names dropout, not its rate, which is the official mapper's"
    )
    slope: float = option(0.2, "slope of the leaky ReLU below 0; not in the paper, the official mapper's")
    sample_posterior: bool = option(
        True, "sample the VAE's posterior for each latent, instead of taking its mean; not in the paper"
    )
    steps: int = option(100_000, "training steps (Sec. 4.1)", may_change=True)
    batch_size: int = option(
        32,
        "images per step, over all processes and accumulated parts (Sec. 4.1); "
        "whether the paper's 32 are per "
        "GPU is not in the paper",
    )
    lr: float = option(1e-5, "learning rate (Sec. 4.1)")
    warmup: int = option(
        0, "steps over which the learning rate rises; not in the paper, which gives one rate"
    )
    decay: int = option(
        0, "last steps, over which the learning rate falls to 0, at most all; not in the paper"
    )
    flip: bool = option(True, "mirror half of the photos: 'Only horizontal flip is used' (Sec. 4.1)")
    validation: int = option(
        0, "faces held out of training for validation and sample sheets, 0 = none; not in the paper"
    )
    validate_every: int = option(
        1000, "steps between validations of held-out faces; each follows a checkpoint", may_change=True
    )
    sample_every: int = option(
        0, "steps between sample sheets, 0 = none; each follows a checkpoint", may_change=True
    )
    sample_prompts: tuple[str, ...] = option(
        ("A photo of S*", "A photo of S* as a chef", "A photo of S* in a snowy forest"),
        "a prompt of the sample sheets; repeat the option for more",
        may_change=True,
        repeat=True,
    )
    sample_faces: int = option(
        4, "faces of the sample sheets: held-out ones, or the first of the cache", may_change=True
    )
    sample_steps: int = option(30, "denoising steps of a sample", may_change=True)
    # --- scores of the sample sheets: weights as published; those left out leave their metric out ---
    sample_adaface: str = option("", "weights of AdaFace, to score the sample sheets", may_change=True)
    sample_sphereface: str = option("", "weights of SphereFace, likewise", may_change=True)
    sample_facenet: str = option("", "weights of FaceNet, likewise", may_change=True)
    sample_clip: str = option(
        "", "folder of CLIP, likewise; for training ViT-B/32 is enough", may_change=True
    )
    sample_siglip: str = option("", "folder of SigLIP, likewise", may_change=True)
    sample_detector: str = option("", "weights of YuNet, for the identity metrics", may_change=True)

    def __post_init__(self) -> None:
        """Check the options that go beyond the paper."""
        for name in ("cross_photo", "context_share"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise ValueError(f"--{name.replace('_', '-')} is {share}. Use a share from 0 to 1.")
        if self.context_share and not self.contexts:
            raise ValueError(f"--context-share is {self.context_share} without contexts. Add --contexts.")
        if self.couples_every < 0:
            raise ValueError(
                f"--couples-every is {self.couples_every}. Use a number of steps, or 0 for never."
            )
        if self.identity_weight and not self.identity_msid:
            raise ValueError(
                f"--identity-weight is {self.identity_weight} without an encoder. Add --identity-msid."
            )
        if self.region_weight <= 0:
            raise ValueError(
                f"--region-weight is {self.region_weight}. Use a positive weight; the paper's is 1."
            )
        if (self.region_weight != 1 or self.relative_loss) and self.loss != "cgdr":
            raise ValueError(
                f"--region-weight and --relative-loss weight CGDR, but --loss is {self.loss}. "
                "Use --loss cgdr."
            )
        if self.context_share and self.loss != "cgdr":
            raise ValueError(
                f"--context-share needs the class prompt's prediction, which --loss {self.loss} has not. "
                "Use --loss cgdr."
            )


# The rows of Tables 3 to 5, then what goes beyond the paper. The encoders' rows differ in the cache: prepare
# it with ArcFace's weights.
PRESETS: dict[str, dict[str, Any]] = {
    "cgdr": {},
    "reconstruction": {"loss": "reconstruction"},
    "masked": {"loss": "masked"},
    "no-expression": {"expression_guidance": False},
    "arcface": {},
    "arcface-msf": {},
    # not in the paper, see docs/beyond-the-paper.md
    "length": {"word_length": 4.0},
    "expression": {"expression_scale": 3.0},
    "cross-photo": {"cross_photo": 1.0},  # with a cache of class folders
    "context": {"context_share": 0.5},
    "identity": {"identity_weight": 0.1},  # with --identity-msid
    "logit-normal": {"timestep_sampling": "logit-normal"},
    "couples": {"couples_every": 4},
    "muon": {"optimizer": "muon"},
    "region": {"region_weight": 8.0},
}
# What is better than the paper's on the miniature; the learning rate falls over the whole run.
PRESETS["plus"] = PRESETS["logit-normal"] | PRESETS["expression"] | PRESETS["couples"] | {"decay": 100_000}
PRESETS["plus-muon"] = (
    PRESETS["plus"] | PRESETS["muon"] | PRESETS["region"] | {"weight_decay": 0.1, "relative_loss": True}
)
# How many altered copies of each photo the cache should hold for a preset.
PRESET_VARIANTS = {"plus-muon": 1}
# What the cache's encoder must be for a preset: the depths of its features, and those with norms.
PRESET_ENCODERS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "arcface": ((12,), (12,)),
    "arcface-msf": ((3, 6, 9, 12), (12,)),
}


@dataclass(frozen=True, kw_only=True)
class MSIDTrainingConfig(TrainingConfig):
    """How `f2d-train msid` trains the identity encoder; the defaults are the paper's run."""

    examples: ClassVar[tuple[str, ...]] = (
        "f2d-train msid --data ms1m-retinaface-t1 --out runs/msid --precision bf16",
        "torchrun --nproc_per_node 8 -m face2diffusion.training.cli msid --data ms1m-retinaface-t1 "
        "--out runs/msid",
    )

    data: str = option(
        "", "folder with train.rec and train.idx, class folders, or WebDataset shards", may_change=True
    )
    verification: str = option(
        "", "class folders for {anchor, positive, negative} triplets, to verify the result", may_change=True
    )
    verify_every: int = option(
        0, "epochs between verifications, besides the one at the end; 0 = none", may_change=True
    )
    depths: tuple[int, ...] = option(
        (3, 6, 9, 12), "layers whose features are used (Sec. 4.1); 12 = plain ArcFace"
    )
    image_size: int = option(112, "side of the faces in px")
    patch_size: int = option(8, "side of a patch in px; not in the paper, the official encoder's")
    embed_dim: int = option(384, "width of the encoder; not in the paper, the official encoder's")
    depth: int = option(12, "'12 transformer encoder layers' (Sec. 4.1)")
    heads: int = option(12, "attention heads; not in the paper, the official encoder's")
    scale: float = option(64.0, "s of Eq. 3; not in the paper, ArcFace's")
    margin: float = option(0.5, "m of Eq. 3; not in the paper, ArcFace's")
    drop_path: float = option(
        0.0,
        "rate at which the deepest layer is skipped, rising linearly from 0 at the first; not in the paper, "
        "insightface's ViT recipe has 0.05",
    )
    epochs: int = option(30, "passes over all faces (Sec. 4.1)", may_change=True)
    batch_size: int = option(1024, "images per step, over all processes and accumulated parts (Sec. 4.1)")
    accumulate: int = option(
        1,
        "parts of a batch that each process computes in turn; the gradient is the entire batch's, "
        "but each part is normalized by its own batch statistics",
        may_change=True,
    )
    lr: float = option(1e-3, "learning rate (Sec. 4.1)")
    weight_decay: float = option(0.1, "weight decay of AdamW; not in the paper, insightface's ViT recipe")
    warmup_epochs: float = option(
        3.0, "epochs over which the learning rate rises; not in the paper, insightface's ViT recipe"
    )
    clip: float = option(
        5.0, "maximum norm of the encoder's gradient, 0 = no clipping; not in the paper, insightface's"
    )
    sample_rate: float = option(1.0, "share of the classes in a step's softmax (PartialFC); not in the paper")
    flip: bool = option(True, "mirror half of the faces; Sec. 4.1 names it for the mapper")
    remap_labels: bool = option(False, "renumber the labels if some have no face")
    save_every: int = option(2000, "steps between checkpoints", may_change=True)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How `f2d-train evaluate` scores one method; the defaults are the paper's protocol (Sec. 4.2)."""

    examples: ClassVar[tuple[str, ...]] = (
        "f2d-train evaluate --method F2D --faces ffpp --detector yunet.onnx --images eval/f2d --base sd-v1-4 "
        "--msid msid.pt --mapper mapping.pt --adaface adaface_ir101.ckpt --sphereface sphere20a_20171020.pth "
        "--facenet 20180402-114759-vggface2.pt --clip CLIP-ViT-H-14-laion2B-s32B-b79K "
        "--siglip siglip-large-patch16-384 --out eval/f2d.json",
        "f2d-train evaluate --method ELITE --faces eval/faces --aligned --detector yunet.onnx --images elite "
        "--adaface adaface_ir101.ckpt --out eval/elite.json",
        "f2d-train evaluate --method DVAR --faces eval/faces --aligned --detector yunet.onnx --images dvar "
        "--base sd-v1-4 --words dvar-words --adaface adaface_ir101.ckpt --out eval/dvar.json",
        "f2d-train evaluate --method DreamBooth --faces eval/faces --aligned --detector yunet.onnx "
        "--images dreambooth --models dreambooth-models --subject 'sks person' --out eval/db.json ...",
        "f2d-train evaluate --method F2D --base miniature --msid miniature --mapper miniature "
        "--images eval/small --out eval/small.json",
        "torchrun --nproc_per_node 8 -m face2diffusion.training.cli evaluate --method F2D --faces ffpp "
        "--images eval/f2d --out eval/f2d.json ...",
    )

    method: str = option("", "name in the report; names of presets are rows of Tables 3 to 5")
    images: str = option(
        "",
        "folder of images, identity/prompt_index/seed.png; missing ones are generated if --base is given",
    )
    faces: str = option("", "folder of photos or videos, one per identity; 'miniature': its portraits")
    out: str = option("", "JSON file of the results")
    benchmark: Literal["paper", "miniature"] = option(
        "paper", "prompts and metrics; the miniature's need no download and come with their evaluators"
    )
    # --- faces ---
    aligned: bool = option(False, "the faces are FFHQ crops")
    crops: str = option("", "folder for the FFHQ crops; by default 'faces' beside the results")
    identities: int = option(100, "maximum number of identities, chosen at random; 0 = all")
    frame: float = option(0.5, "frame of a video, as a share of its length; the paper has 'a frame'")
    face_size: int = option(512, "side of the crops in px")
    detector: str = option(
        "", "weights of YuNet, for faces that are not aligned, for the encoder and for the identity metrics"
    )
    min_score: float = option(0.6, "minimum detection score of a face")
    # --- images ---
    prompts: tuple[int, ...] = option(tuple(range(40)), "indices of the prompts in Table 7")
    images_per_prompt: int = option(4, "images per identity and prompt")
    size: int = option(512, "side of the images in px; others cannot be scored")
    base: str = option(
        "",
        "Stable Diffusion 1.x, a diffusers folder or a single file, or 'miniature'; without it (and without "
        "--models), existing images are scored",
    )
    base_config: str = option("", "for a single file: diffusers folder with configs and tokenizer")
    msid: str = option("", "weights of the identity encoder, or 'miniature'")
    mapper: str = option("", "weights of the mapping network, or 'miniature'")
    words: str = option(
        "", "instead of msid and mapper: folder of learned words, a .safetensors, .bin or .pt per identity"
    )
    models: str = option(
        "", "instead of msid and mapper: folder of fine-tuned models, LoRAs or adapters, one per identity"
    )
    subject: str = option("", "for --models: the person's name in prompts, such as 'sks person'")
    steps: int = option(30, "denoising steps, Euler ancestral")
    cfg: float = option(7.0, "classifier-free guidance scale")
    subject_from: float = option(
        0.0, "share of the denoising with the class words; 0.2 = DSC with alpha 0.8 (Sec. E.2)"
    )
    draw_batch: int = option(4, "images of one prompt generated at once")
    # --- scores: weights as published; those left out leave their metric out ---
    adaface: str = option("", "weights of AdaFace, IR-101 or IR-50 .ckpt")
    sphereface: str = option("", "weights of SphereFace, sphere20a_20171020.pth")
    facenet: str = option("", "weights of FaceNet, 20180402-114759-vggface2.pt")
    clip: str = option("", "folder of CLIP ViT-H/14, laion2B")
    siglip: str = option("", "folder of SigLIP")
    score_batch: int = option(64, "images scored at once")
    cache: str = option("", "SQLite file of embeddings; by default 'cache.sqlite' beside the results")
    fid: str = option("", "folder of real images for FID (Table 2); by default there is no FID")
    fid_words: tuple[str, ...] = option(
        ("person", "man", "woman"),
        "real images count if their caption, a .txt beside the image, has one of these words",
    )
    fid_weights: str = option("", "weights-inception-2015-12-05-6726825d.pth of torch-fidelity")
    parameters: int = option(
        0, "parameters the method trains, for Table 2; counted for mappers, words, LoRAs and adapters"
    )
    encoding_seconds: float = option(0.0, "seconds per face, for Table 2; measured where the mapper is given")
    seed: int = option(0, "seed of the choice of identities")
    device: str = option("", "device of the networks; by default the best available")


# What `--base miniature` stands for besides the base.
MINIATURE_EVALUATION: dict[str, Any] = {
    "benchmark": "miniature", "faces": "miniature", "aligned": True, "size": 128, "steps": 20, "cfg": 4.0,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """How `f2d-train report` writes the pages of one or more evaluations."""

    examples: ClassVar[tuple[str, ...]] = (
        "f2d-train report --results eval/f2d.json,eval/elite.json --out eval/report",
    )

    results: tuple[str, ...] = option((), "JSON files of `f2d-train evaluate`, one per method")
    out: str = option("", "folder for report.html (self-contained), report.md and its images")
    verification: tuple[str, ...] = option((), "verification.json of encoders (Fig. 4)")
    encoders: tuple[str, ...] = option((), "weights of encoders to verify now")
    triplets: str = option("", "aligned faces in class folders, for --encoders")
    depths: tuple[int, ...] = option((), "depths for --encoders; by default each file's own")
    draws: int = option(10_000, "resamples of the bootstrap")
    grid_identities: int = option(3, "identities with a grid of images")
    grid_prompts: tuple[int, ...] = option(
        (2, 14, 25, 33, 38), "indices in Table 7 of the prompts in the grids"
    )


@dataclass(frozen=True, kw_only=True)
class MiniatureConfig:
    """How `f2d-train miniature` trains its models; the defaults are those of the shipped weights."""

    examples: ClassVar[tuple[str, ...]] = (
        "f2d-train miniature --out runs/miniature",
        "f2d-train miniature report --out runs/miniature",
        "f2d-train miniature exam --out runs/exam",
        "f2d-train miniature refine --out runs/refine --report-people 24",
        "f2d-train miniature ideas --out runs/ideas --presets cgdr,length,context --photos 1500 "
        "--mapper-steps 600",
        "f2d-train miniature baselines --out runs/baselines",
    )

    stage: Stage = option(
        "train",
        "train all models, report on them, pack them into the package, start from the packed ones, "
        "evaluate those on held-out data, tune the per-person methods of other papers, compare with "
        "them, measure what refining S* on photos adds, or compare mappers with ideas beyond the paper",
        may_change=True,
    )
    out: str = option("", "folder of the models; the same command resumes", may_change=True)
    drawings: int = option(40_000, "images with one person, for the diffusion model")
    pairs: int = option(5_000, "images with two people, for the diffusion model")
    autoencoder_steps: int = option(3_500, "steps of the autoencoder, batch 16")
    diffusion_steps: int = option(5_500, "steps of the diffusion model's first stage, batch 32")
    refine_steps: int = option(4_000, "steps of its second stage, batch 32")
    finish_steps: int = option(
        6_000, "steps of its third stage, batch 32, mostly at the noise levels where a face forms"
    )
    people: int = option(400, "identities for the identity encoders")
    pictures: int = option(30, "images per identity for the identity encoders")
    msid_epochs: int = option(12, "epochs of the identity encoders")
    expression_steps: int = option(2_500, "steps of the expression network, batch 32")
    verifier_steps: int = option(1_000, "steps of the identity metric, batch 64")
    attribute_steps: int = option(2_500, "steps of the attribute classifier, batch 64")
    photos: int = option(4_000, "images for the mapper, each of another person")
    mapper_steps: int = option(2_000, "steps of the mapper")
    mapper_batch: int = option(32, "images per step of the mapper")
    mapper_lr: float = option(2e-3, "learning rate of the mapper")
    validation: int = option(0, "photos held out of the mapper's training, for validation curves; 0 = none")
    seeds: tuple[int, ...] = option(
        (), "seeds of the mappers; by default 0, and 0,1,2 for the report", may_change=True
    )
    presets: tuple[str, ...] = option(
        ("cgdr",),
        "rows of Tables 3 to 5 to train; the report takes all rows, and trains what is missing",
        may_change=True,
    )
    seed: int = option(0, "seed of everything else")
    report_people: int = option(12, "held-out people in report and evaluation", may_change=True)
    report_prompts: int = option(40, "prompts in report and evaluation", may_change=True)
    prompt_stride: int = option(1, "baselines: take every n-th prompt", may_change=True)
    baselines: tuple[str, ...] = option(
        (), "per-person methods to tune or compare with; by default all", may_change=True
    )
    best_of: int = option(8, "images to choose from, for Fig. 7 on the miniature", may_change=True)
    bf16: bool = option(True, "train in bfloat16 where safe")
    compile: bool = option(
        False, "compile the U-Net's training; on a CPU this needs a C++ compiler", may_change=True
    )


# Too small to learn anything: for tests.
MINIATURE_SMALL: dict[str, Any] = {
    "drawings": 32, "pairs": 8, "autoencoder_steps": 2, "diffusion_steps": 2, "refine_steps": 1,
    "finish_steps": 1, "people": 4, "pictures": 4, "msid_epochs": 1, "expression_steps": 1,
    "verifier_steps": 1, "attribute_steps": 1, "photos": 8, "mapper_steps": 1, "mapper_batch": 4,
    "report_people": 2, "report_prompts": 3, "best_of": 2, "bf16": False,
}  # fmt: skip
