"""The command `f2d-train`: a cache of frozen features, mapper, identity encoder, and their evaluation.

torchrun --nproc_per_node 8 -m face2diffusion.training.cli mapper ...     runs the same on 8 GPUs
(`accelerate launch` starts the processes as well)
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..f2d.command_line import escape_unprintable, out_of_memory, parse_arguments
from ..f2d.commands.arguments import finite, integer
from .config import (
    MINIATURE_EVALUATION,
    MINIATURE_SMALL,
    PRESET_ENCODERS,
    PRESET_VARIANTS,
    PRESETS,
    EvaluateConfig,
    MapperTrainingConfig,
    MiniatureConfig,
    MSIDTrainingConfig,
    PrepareConfig,
    ReportConfig,
)

_PRESETS = {**PRESETS, "small": MINIATURE_SMALL, "miniature": MINIATURE_EVALUATION}
_PARSED: dict[type, Callable[[str], Any]] = {int: integer, float: finite}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: None = those of the process.

    Returns:
        0, 2 on bad input, 130 on Ctrl-C, or 1 where training had to stop; with one line on stderr.
    """
    escape_unprintable()
    options = vars(parse_arguments(_parser(), arguments))
    run, config_class = options.pop("run"), options.pop("config_class")
    dry, preset = options.pop("dry_run"), options.pop("preset", "")
    if config_class is EvaluateConfig and options["base"] == "miniature":
        preset = "miniature"
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in options.items()
        if value is not None
    }
    try:
        config = config_class(**{**_PRESETS.get(preset, {}), **given})
        if dry:
            print(json.dumps(dataclasses.asdict(config), indent=2))
            return 0
        run(config, preset)
    except KeyboardInterrupt:
        return _fail(KeyboardInterrupt("Interrupted. Rerun the command to resume."), 130)
    except (
        FloatingPointError,
        ConnectionError,
        InterruptedError,
    ) as error:  # a loss that is not finite, a process that died, a signal
        return _fail(error, 1)
    except (ValueError, OSError, ImportError) as error:
        return _fail(error, 2)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return _fail(MemoryError("Out of memory. Use smaller sizes or batches."), 2)
    return 0


def _fail(error: BaseException, code: int) -> int:
    print(f"f2d-train: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def _log(message: str) -> None:
    from .engine.processes import read_environment

    if read_environment().first:  # one process logs for all
        print(message, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="f2d-train",
        description="Train and evaluate Face2Diffusion: the paper's run is the default of every option.",
        epilog=_examples(*(config_class for _, config_class, _, _ in _COMMANDS)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    parsers = {name: _command(commands, name, *rest) for name, *rest in _COMMANDS}
    parsers["mapper"].add_argument(
        "--preset",
        choices=list(PRESETS),
        default="cgdr",
        help="a row of Tables 3 to 5 (default: cgdr, the paper's run)",
    )
    parsers["evaluate"].add_argument(
        "--preset",
        choices=["paper", "miniature"],
        default="paper",
        help="miniature: its portraits, benchmark, size and sampling; --base miniature implies it "
        "(default: paper)",
    )
    parsers["miniature"].add_argument(
        "--preset",
        choices=["shipped", "small"],
        default="shipped",
        help="sizes of everything; small: for tests (default: shipped)",
    )
    return parser


def _examples(*config_classes: Any) -> str:
    return "examples:\n" + "\n".join(f"  {line}" for one in config_classes for line in one.examples)


def _command(
    commands: Any, name: str, config_class: Any, run: Callable, summary: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=_examples(config_class),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    hints = get_type_hints(config_class)
    shared = parser.add_argument_group("options of every training")
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
        _option(
            parser if field.name in vars(config_class)["__annotations__"] else shared,
            field,
            hints[field.name],
        )
    parser.add_argument("--dry-run", action="store_true", help="print the resolved configuration and stop")
    parser.set_defaults(run=run, config_class=config_class)
    return parser


def _option(parser: argparse._ActionsContainer, field: dataclasses.Field, kind: Any) -> None:
    """Add one field of a config as an option; what is not given keeps the config's or preset's value."""
    flag = f"--{field.name.replace('_', '-')}"
    text = f"{field.metadata['help']}{_shown(field.default)}".replace("%", "%%")
    if kind is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
    elif get_origin(kind) is Literal:
        parser.add_argument(flag, choices=get_args(kind), help=text)
    elif field.metadata.get("repeat"):
        item = get_args(kind)[0]
        parser.add_argument(flag, type=item, action="append", metavar=item.__name__.upper(), help=text)
    elif get_origin(kind) is tuple:
        parser.add_argument(flag, type=_list_of(get_args(kind)[0]), metavar="A,B,...", help=text)
    else:
        parser.add_argument(flag, type=_PARSED.get(kind, kind), metavar=kind.__name__.upper(), help=text)


def _shown(default: Any) -> str:
    shown = ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)
    return f" (default: {shown})" if shown else ""


def _list_of(kind: type) -> Callable[[str], tuple]:
    def parse(text: str) -> tuple:
        return tuple(_PARSED.get(kind, kind)(part.strip()) for part in text.split(",") if part.strip())

    return parse


def _prepare(config: PrepareConfig, preset: str) -> None:
    from .data.prepare import prepare

    _log(f"Cache -> {prepare(config, _log)}")


def _mapper(config: MapperTrainingConfig, preset: str) -> None:
    from .data.cache import LatentCache, read_info
    from .evaluation.sample_scores import load_sample_scorer
    from .mapper.train import train_mapper

    if preset in PRESET_ENCODERS:
        cache, wanted = LatentCache(config.cache), PRESET_ENCODERS[preset]
        got = tuple(cache.depths), tuple(cache.normed)
        if got != wanted:
            raise ValueError(
                f"The cache '{config.cache}' has depths {got[0]} with norms at {got[1]}, but --preset "
                f"{preset} needs {wanted[0]} with norms at {wanted[1]}. Prepare one with ArcFace's weights "
                "(`f2d convert arcface.pt arcface.safetensors --depths ...`)."
            )
    copies = PRESET_VARIANTS.get(preset, 0)
    if (found := read_info(config.cache).variants) < copies:
        _log(
            f"The cache '{config.cache}' has {found} altered copies of each photo; --preset {preset} was "
            f"measured with {copies}. Prepare another with --variants {copies}, or go without them."
        )
    _log(f"Weights -> {train_mapper(config, _log, load_sample_scorer)}")


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
    from .engine.processes import require_one_process
    from .miniature.recipe import Miniature

    require_one_process("`f2d-train miniature`")
    if config.stage == "exam":
        from .miniature.study.held_out_evaluation import write_held_out_evaluation

        _log(f"Page -> {write_held_out_evaluation(config, _log)}")
        return
    if config.stage == "refine":
        from .miniature.study.refined_people import write_refinement_study

        _log(f"Page -> {write_refinement_study(config, _log)}")
        return
    if config.stage == "tune":
        from .miniature.baselines.tune import tune_baselines

        _log(f"Trials -> {tune_baselines(config, _log)}")
        return
    if config.stage == "baselines":
        from .miniature.baselines.baselines_report import write_baselines_report

        _log(f"Page -> {write_baselines_report(config, _log)}")
        return
    miniature = Miniature(config, _log)
    if config.stage == "report":
        from .miniature.study.miniature_report import SEEDS, write_miniature_report

        _log(f"Page -> {write_miniature_report(miniature, config.seeds or SEEDS)}")
    elif config.stage == "ideas":
        from .miniature.study.mapper_ideas import write_ideas_study

        _log(f"Page -> {write_ideas_study(miniature, _log)}")
    elif config.stage == "ship":
        from .miniature.shipping import ship_weights

        _log(f"Weights -> {ship_weights(miniature)}")
    elif config.stage == "unpack":
        from .miniature.shipping import unpack_weights

        _log(f"Models -> {unpack_weights(miniature)}")
    else:
        _log(f"Models -> {miniature.train()}")


_COMMANDS: tuple[tuple[str, Any, Callable, str], ...] = (
    (
        "prepare",
        PrepareConfig,
        _prepare,
        "turn photos into a cache of all frozen features; the same command resumes",
    ),
    ("mapper", MapperTrainingConfig, _mapper, "train the mapper on a cache; the same command resumes"),
    ("msid", MSIDTrainingConfig, _msid, "pre-train the identity encoder; the same command resumes"),
    (
        "evaluate",
        EvaluateConfig,
        _evaluate,
        "generate and score the images of one method by the paper's protocol; the same command resumes",
    ),
    ("report", ReportConfig, _report, "make the paper's tables and plots of one or more evaluations"),
    ("miniature", MiniatureConfig, _miniature, "train the miniature from scratch; the same command resumes"),
)

if __name__ == "__main__":
    sys.exit(main())
