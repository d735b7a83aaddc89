"""The command `f2d-train`: a cache of frozen features, the mapper, the identity encoder, and their evaluation.

accelerate launch --num_processes 8 -m face2diffusion.training.cli mapper ...     runs the same on many GPUs
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .config import (
    MINIATURE_SMALL,
    PRESET_ENCODERS,
    PRESETS,
    EvaluateConfig,
    MapperTrainingConfig,
    MiniatureConfig,
    MSIDTrainingConfig,
    PrepareConfig,
    ReportConfig,
)

_EPILOG = """examples:
  f2d-train prepare --photos ffhq --base sd-v1-4 --msid msid.pt --expression epoch_20.pth --parser face-parsing --aligned --out cache
  f2d-train mapper --cache cache --base sd-v1-4 --out runs/cgdr --precision bf16
  f2d-train mapper --preset reconstruction --cache cache --base sd-v1-4 --out runs/reconstruction
  accelerate launch --num_processes 8 -m face2diffusion.training.cli mapper --cache cache --base sd-v1-4 --out runs/cgdr
  f2d-train msid --data ms1m-retinaface-t1 --out runs/msid
  f2d-train evaluate --method F2D --faces ffpp --detector yunet.onnx --images eval/f2d --base sd-v1-4 --msid msid.pt --mapper mapping.pt --adaface adaface_ir101.ckpt --sphereface sphere20a_20171020.pth --facenet 20180402-114759-vggface2.pt --clip CLIP-ViT-H-14-laion2B-s32B-b79K --siglip siglip-large-patch16-384 --out eval/f2d.json
  f2d-train evaluate --method ELITE --faces eval/faces --aligned --detector yunet.onnx --images elite --adaface adaface_ir101.ckpt --out eval/elite.json
  accelerate launch --multi_gpu --num_processes 8 -m face2diffusion.training.cli evaluate --method F2D --faces ffpp --images eval/f2d --out eval/f2d.json ...
  f2d-train report --results eval/f2d.json,eval/elite.json --out eval/report
  f2d-train miniature --out runs/miniature
  f2d-train miniature report --out runs/miniature
  f2d-train miniature exam --out runs/exam
"""


_PRESETS = {**PRESETS, "small": MINIATURE_SMALL}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: None = those of the process.

    Returns:
        0, 2 on bad input, 130 on Ctrl-C, or 1 where training had to stop; with one line on stderr.
    """
    options = vars(_parser().parse_args(arguments))
    run, config_class = options.pop("run"), options.pop("config_class")
    dry, preset = options.pop("dry_run"), options.pop("preset", "")
    given = {name: value for name, value in options.items() if value is not None}
    try:
        config = config_class(**{**_PRESETS.get(preset, {}), **given})
        if dry:
            print(json.dumps(dataclasses.asdict(config), indent=2))
            return 0
        run(config, preset)
    except KeyboardInterrupt:
        return _fail(KeyboardInterrupt("Interrupted; the same command goes on."), 130)
    except (
        FloatingPointError,
        ConnectionError,
        InterruptedError,
    ) as error:  # a loss that is not finite, a process that died, a signal
        return _fail(error, 1)
    except (ValueError, OSError, ImportError) as error:
        return _fail(error, 2)
    return 0


def _fail(error: BaseException, code: int) -> int:
    print(f"f2d-train: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def _log(message: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # one process speaks for all
        print(message, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="f2d-train",
        description="Train and evaluate Face2Diffusion: the paper's run is the default of every option.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _command(
        commands, "prepare", PrepareConfig, _prepare, "turn photos into a cache of everything that is frozen"
    )
    mapper = _command(
        commands,
        "mapper",
        MapperTrainingConfig,
        _mapper,
        "train the mapper on a cache; the same command resumes",
    )
    mapper.add_argument(
        "--preset",
        choices=list(PRESETS),
        default="cgdr",
        help="a row of Tables 3 to 5 (default: cgdr, the paper's run)",
    )
    _command(
        commands,
        "msid",
        MSIDTrainingConfig,
        _msid,
        "pre-train the identity encoder; the same command resumes",
    )
    _command(
        commands,
        "evaluate",
        EvaluateConfig,
        _evaluate,
        "draw and score one method by the paper's protocol; the same command resumes",
    )
    _command(
        commands,
        "report",
        ReportConfig,
        _report,
        "make the paper's tables and plots of one or more evaluations",
    )
    miniature = _command(
        commands,
        "miniature",
        MiniatureConfig,
        _miniature,
        "train the miniature from nothing; the same command resumes",
    )
    miniature.add_argument(
        "--preset",
        choices=["shipped", "small"],
        default="shipped",
        help="small: for tests (default: shipped)",
    )
    return parser


def _command(
    commands: Any, name: str, config_class: type, run: Callable, summary: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog="examples:\n" + "\n".join(line for line in _EPILOG.splitlines() if f" {name} " in line),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    hints = get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        if field.name == "stage":
            parser.add_argument(
                "stage",
                nargs="?",
                choices=get_args(hints["stage"]),
                default=field.default,
                help=field.metadata["help"],
            )
            continue
        _option(parser, field.name, hints[field.name], field.default, field.metadata["help"])
    parser.add_argument("--dry-run", action="store_true", help="print the resolved configuration and stop")
    parser.set_defaults(run=run, config_class=config_class)
    return parser


def _option(parser: argparse.ArgumentParser, name: str, kind: Any, default: Any, note: str) -> None:
    """Add one field of a config as an option; fields that are not given keep the config's or the preset's value."""
    flag = f"--{name.replace('_', '-')}"
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    text = f"{note}{' ' if note else ''}(default: {shown if shown != '' else 'none'})".replace("%", "%%")
    if kind is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
    elif get_origin(kind) is Literal:
        parser.add_argument(flag, choices=get_args(kind), help=text)
    elif get_origin(kind) is tuple:
        parser.add_argument(flag, type=_list_of(get_args(kind)[0]), metavar="A,B,...", help=text)
    else:
        parser.add_argument(flag, type=kind, metavar=kind.__name__.upper(), help=text)


def _list_of(kind: type) -> Callable[[str], tuple]:
    def parse(text: str) -> tuple:
        return tuple(kind(part.strip()) for part in text.split(",") if part.strip())

    return parse


def _prepare(config: PrepareConfig, preset: str) -> None:
    from .data.prepare import prepare

    _log(f"Cache -> {prepare(config, _log)}")


def _mapper(config: MapperTrainingConfig, preset: str) -> None:
    from .data.cache import LatentCache
    from .mapper.train import train_mapper

    if preset in PRESET_ENCODERS:
        cache, wanted = LatentCache(config.cache), PRESET_ENCODERS[preset]
        got = tuple(cache.depths), tuple(cache.normed)
        if got != wanted:
            raise ValueError(
                f"Expected a cache of depths {wanted[0]} with norms at {wanted[1]} for --preset {preset}, got {got[0]} with norms at {got[1]}. "
                "Prepare one with ArcFace's weights (`f2d convert arcface.pt arcface.safetensors --depths ...`)."
            )
    _log(f"Weights -> {train_mapper(config, _log)}")


def _msid(config: MSIDTrainingConfig, preset: str) -> None:
    from .msid.train import train_msid

    _log(f"Weights -> {train_msid(config, _log)}")


def _evaluate(config: EvaluateConfig, preset: str) -> None:
    from .evaluation.evaluate import evaluate

    _log(f"Evaluation -> {evaluate(config, _log)}")


def _report(config: ReportConfig, preset: str) -> None:
    from .report.evaluation_report import write_evaluation_report

    _log(f"Report -> {write_evaluation_report(config, _log)}")


def _miniature(config: MiniatureConfig, preset: str) -> None:
    from .miniature.recipe import Miniature

    if config.stage == "exam":
        from .miniature.study.held_out_evaluation import write_held_out_evaluation

        _log(f"Page -> {write_held_out_evaluation(config, _log)}")
        return
    miniature = Miniature(config, _log)
    if config.stage == "report":
        from .miniature.study.miniature_report import SEEDS, write_miniature_report

        _log(f"Page -> {write_miniature_report(miniature, config.seeds or SEEDS)}")
    elif config.stage == "ship":
        from .miniature.shipping import ship_weights

        _log(f"Weights -> {ship_weights(miniature)}")
    elif config.stage == "unpack":
        from .miniature.shipping import unpack_weights

        _log(f"Models -> {unpack_weights(miniature)}")
    else:
        _log(f"Models -> {miniature.train()}")


if __name__ == "__main__":
    sys.exit(main())
