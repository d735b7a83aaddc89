"""How long things take, with ratios measured in one run; the results are kept in docs/benchmarks.md."""

import cv2
import numpy as np
import pytest
import torch
from face2diffusion.f2d import FaceEncoder
from face2diffusion.f2d.face.alignment import align_face
from face2diffusion.f2d.face.detection import YuNet
from face2diffusion.f2d.image import to_signed
from face2diffusion.f2d.options import FaceChoice
from skimage.data import astronaut
from support.inside import run_inside
from support.official import write_mapper, write_msid
from support.server import HOW_TO_GET_COMFYUI, checkout_version, find_checkouts
from support.timing import time_in_turn

# Of scikit-image's portrait, px; so that no detector is needed.
LANDMARKS = np.array(
    [(200.1, 101.8), (247.1, 102.6), (220.4, 124.5), (198.6, 142.8), (239.7, 143.6)], np.float32
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return write_msid(folder / "msid.pt"), write_mapper(folder / "mapping.pt")


@pytest.mark.parametrize("batch", [1, 8])
def test_encoding_aligned_faces_is_not_slower_than_the_official_way(files, batch):
    """The authors' encoder is timm's ViT with attention written out, as timm had it then.

    Pixels to features on both sides.
    """
    encoder = FaceEncoder.load(*files)
    official = FaceEncoder.load(*files).msid
    for block in official.blocks:
        block.attn.fused_attn = False
    crops = [encoder.crop_face(astronaut(), choice=FaceChoice(landmarks=LANDMARKS)).crop] * batch
    with torch.no_grad():
        pair = time_in_turn(lambda: encoder.embed(crops), lambda: official(to_signed(crops)))
    print(
        f"encode, batch {batch}: {pair.first * 1e3:.1f} ms, the official way {pair.second * 1e3:.1f} ms, "
        f"ratio {pair.ratio:.2f}"
    )
    assert pair.ratio < 1.1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_encoding_on_a_gpu_takes_under_2_ms(files):
    encoder = FaceEncoder.load(*files, device="cuda")
    crops = [encoder.crop_face(astronaut(), choice=FaceChoice(landmarks=LANDMARKS)).crop]
    pair = time_in_turn(lambda: encoder.embed(crops), lambda: encoder.embed(crops * 8), rounds=50)
    print(
        f"encode on {torch.cuda.get_device_name()}: batch 1 {pair.first * 1e3:.2f} ms, "
        f"batch 8 {pair.second * 1e3:.2f} ms"
    )
    assert pair.first < 2e-3


def test_detection_and_alignment_of_12_megapixels(files, detector_file):
    """Against detection at full size, which misses large faces too."""
    encoder = FaceEncoder.load(*files, detector=detector_file)
    photo = cv2.resize(astronaut(), (4000, 3000), interpolation=cv2.INTER_CUBIC)
    whole = cv2.FaceDetectorYN.create(str(detector_file), "", (4000, 3000), 0.6)
    bgr = np.ascontiguousarray(photo[..., ::-1])
    pair = time_in_turn(lambda: encoder.crop_face(photo), lambda: whole.detect(bgr), rounds=5)
    print(
        f"12 megapixels: find {pair.first * 1e3:.0f} ms, detection at full size {pair.second * 1e3:.0f} ms, "
        f"ratio {pair.ratio:.2f}"
    )
    assert isinstance(encoder.detector, YuNet)
    assert pair.ratio < 0.5


def test_six_looks_at_a_face_cost_at_most_twice_one_look(detector_file):
    """Turn and exact landmarks of the face in 12 megapixels, against one look at the reduced photo."""
    photo = cv2.resize(astronaut(), (4000, 3000), interpolation=cv2.INTER_CUBIC)
    detector = YuNet(detector_file)
    pair = time_in_turn(
        lambda: align_face(photo, detector.detect(photo)[0].landmarks),
        lambda: detector._look(cv2.resize(photo, (1024, 768), interpolation=cv2.INTER_AREA)),
        rounds=20,
    )
    print(
        f"12 megapixels: detect and align {pair.first * 1e3:.0f} ms, one look {pair.second * 1e3:.0f} ms, "
        f"ratio {pair.ratio:.2f}"
    )
    assert pair.ratio < 2


def test_a_photo_to_words_is_20_times_faster_than_the_detector_of_the_authors(files, detector_file):
    """The whole way from 3 megapixels to S*, against the networks of S3FD and FAN alone (random weights)."""
    pytest.importorskip("face_alignment", reason="needs face_alignment: pip install face-alignment")
    from face_alignment.detection.sfd.net_s3fd import s3fd
    from face_alignment.models import FAN

    encoder = FaceEncoder.load(*files, detector=detector_file)
    photo = cv2.resize(astronaut(), (2000, 1500), interpolation=cv2.INTER_CUBIC)
    pixels = torch.from_numpy(photo).permute(2, 0, 1)[None].float()
    find, align = s3fd().eval(), FAN(4).eval()
    with torch.no_grad():
        pair = time_in_turn(
            lambda: encoder.words(encoder.identify(photo)),
            lambda: (find(pixels), align(pixels[..., :256, :256] / 255)),
            rounds=3,
        )
    print(
        f"3 megapixels: photo to words {pair.first * 1e3:.0f} ms, S3FD and FAN {pair.second * 1e3:.0f} ms, "
        f"ratio {pair.ratio:.3f}"
    )
    assert pair.ratio < 1 / 20


@pytest.mark.parametrize(
    "checkout", find_checkouts() or [None], ids=lambda path: checkout_version(path) if path else "no-comfyui"
)
def test_the_cost_in_comfyui(checkout):
    """InjectSStar + CLIPTextEncode over CLIPTextEncode alone, and what the pack adds to the start."""
    if checkout is None:
        pytest.skip(HOW_TO_GET_COMFYUI)
    result = run_inside(checkout, "cost")
    print(
        f"ComfyUI {checkout_version(checkout)}: loading the pack {result['load_seconds']:.3f} s; "
        f"CLIPTextEncode {result['without'] * 1e3:.1f} ms, "
        f"with Inject S* {result['with'] * 1e3:.1f} ms, ratio {result['ratio']:.3f}"
    )
    assert result["imported"] == [], "timm and OpenCV are imported when they are first used"
    assert result["load_seconds"] < 0.15
    assert result["ratio"] < 1.05
