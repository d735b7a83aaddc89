"""How fast pictures are scored in batches against one at a time.

The results are kept in docs/benchmarks.md.
"""

import resource
import time

import cv2
import numpy as np
import pytest
import torch
from face2diffusion.f2d.face.detection import YuNet
from face2diffusion.f2d.image import save_png
from face2diffusion.f2d.networks.recognition import AdaFace, FaceNet, SphereFace
from face2diffusion.training.evaluation.scoring import METRICS, Evaluator, Request, Scorer
from face2diffusion.training.evaluation.text import load_text_evaluator
from skimage.data import astronaut
from support.recognition import write_clip, write_siglip

PICTURES, SEEDS, ALONE = (
    64,
    4,
    6,
)  # in the batch, of each prompt, and scored one at a time before and after it
GPU = torch.cuda.is_available()
clock = time.perf_counter if GPU else time.process_time  # CPUs are shared: the process's own time tells more


def tower(width: int, layers: int, heads: int, hidden: int = 4, **more: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": hidden * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        **more,
    }


# On a GPU the paper's CLIP ViT-H/14 and SigLIP L/16 at 384 px; on a CPU base-size towers, so that the run
# ends.
CLIP = (
    {"vision": tower(1280, 32, 16, image_size=224, patch_size=14), "text": tower(1024, 24, 16)}
    if GPU
    else {"vision": tower(768, 12, 12, image_size=224, patch_size=32), "text": tower(512, 12, 8)}
)
SIGLIP = (
    {"vision": tower(1024, 24, 16, image_size=384, patch_size=16), "text": tower(1024, 24, 16)}
    if GPU
    else {"vision": tower(768, 12, 12, image_size=224, patch_size=16), "text": tower(768, 12, 12)}
)


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    """All five networks, random, on the best device."""
    folder = tmp_path_factory.mktemp("judges")
    networks = [AdaFace("IR-101"), SphereFace(), FaceNet()]
    texts = [
        load_text_evaluator(write_clip(folder / "clip", **CLIP), "CLIP"),
        load_text_evaluator(write_siglip(folder / "siglip", **SIGLIP), "SigLIP"),
    ]
    for module in [*networks, *(text.model for text in texts)]:
        module.eval().requires_grad_(False).to("cuda" if GPU else "cpu")
    return [Evaluator(network, key=network.name) for network in (*networks, *texts)]


@pytest.fixture(scope="module")
def requests(tmp_path_factory):
    """One identity's 16 prompts with 4 pictures of 512 px each."""
    folder = tmp_path_factory.mktemp("pictures")
    portrait = astronaut()
    for number in range(PICTURES):
        turn = cv2.getRotationMatrix2D((256, 256), number % 21 - 10, 0.8 + 0.005 * number)
        save_png(
            folder / f"{number}.png",
            cv2.warpAffine(portrait, turn, (512, 512), borderMode=cv2.BORDER_REFLECT),
        )
    save_png(folder / "photo.png", portrait)
    save_png(folder / "base.png", np.ascontiguousarray(portrait[:, ::-1]))
    return [
        Request(
            str(folder / f"{number}.png"),
            str(folder / "photo.png"),
            f"A photo of a person, {number // SEEDS}",
            str(folder / "base.png"),
        )
        for number in range(PICTURES)
    ]


def test_scoring_in_batches(judges, requests, detector_file):
    """All six metrics; one at a time means that each picture brings its photo, its y_r and its two prompts,
    as a plain script would do.
    """
    detector = YuNet(detector_file)

    def seconds(batches: list[list[Request]]) -> float:
        start = clock()
        for batch in batches:
            scores = Scorer(judges, detector, batch_size=PICTURES).score(batch, progress=False)
            assert len(scores) == len(batch)
            assert tuple(scores[0].metrics) == METRICS
        return clock() - start

    seconds([requests[:1]])
    before = seconds([[request] for request in requests[:ALONE]])
    batched = PICTURES / seconds([requests])
    after = seconds([[request] for request in requests[-ALONE:]])
    alone = 2 * ALONE / (before + after)
    unit = "" if GPU else " of CPU time"
    memory = f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MiB on the GPU, " if GPU else ""
    memory += f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB in the process"
    print(
        f"six metrics, {PICTURES} pictures: {batched:.2f} per second{unit}, one at a time {alone:.2f}, "
        f"ratio {batched / alone:.2f}; peak {memory}"
    )
    assert batched / alone > 1.5
