"""The command `f2d`: faces to words, words to images, and weight files from one format to another."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .command_line import create_parser, escape_unprintable, parse_arguments, run_command
from .commands.encoding import add_encode
from .commands.generation import add_demo, add_generate
from .commands.weight_files import add_convert, add_download, add_export

_EXAMPLES = """\
  f2d download yunet && f2d download msid && f2d download mapping
  f2d encode photo.jpg --msid msid.pt --mapper mapping.pt --detector face_detection_yunet_2023mar.onnx \\
      --out alice.safetensors
  f2d generate alice.safetensors "A photo of S* as a chef" --model sd-v1-4.ckpt --count 4 --out grid.png
  f2d convert mapping.pt mapping.safetensors
  f2d demo --out demo.png
  f2d demo --comfyui ComfyUI
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: None = those of the process.

    Returns:
        0, 2 on bad input or 130 on Ctrl-C, with one line on stderr.
    """
    escape_unprintable()
    options = parse_arguments(_parser(), arguments)
    return run_command("f2d", lambda: options.run(options), "Interrupted; nothing was written.")


def _parser() -> argparse.ArgumentParser:
    parser, commands = create_parser(
        "f2d",
        "Face2Diffusion: one face photo becomes S*, two words for prompts of Stable Diffusion 1.x.",
        _EXAMPLES,
    )
    for add in (add_encode, add_generate, add_convert, add_export, add_download, add_demo):
        add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
