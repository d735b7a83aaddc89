"""Fills networks with a file's tensors, and builds their configs from its metadata; all is checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..checkpoint import Checkpoint

Config = TypeVar("Config")
Network = TypeVar("Network", bound=nn.Module)


def load_strictly(
    module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], path: str, optional: tuple[str, ...] = ()
) -> None:
    """Copy tensors into a module; every name and shape must agree.

    Args:
        module: keeps its own dtype and device.
        tensors: under the module's own names.
        path: where they come from, for the message.
        optional: prefixes of names that may be missing.

    Raises:
        ValueError: names or shapes differ; the message lists the first of each.
    """
    own = module.state_dict()
    missing = [key for key in own if key not in tensors and not key.startswith(optional or ("\0",))]
    unexpected = [key for key in tensors if key not in own]
    shapes = [
        f"{key} {tuple(tensors[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in tensors and tensors[key].shape != own[key].shape
    ]
    if missing or unexpected or shapes:
        found = [
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in (("missing", missing), ("unknown", unexpected), ("of another shape", shapes))
            if names
        ]
        raise ValueError(
            f"'{path}' does not fit {type(module).__name__}, which has {len(own)} tensors: "
            f"{'; '.join(found)}. Choose another file."
        )
    module.load_state_dict(dict(tensors), strict=not optional)


def build_config(config_class: type, values: Mapping[str, Any], path: str) -> Any:
    """Build a config dataclass from a file's metadata.

    Args:
        config_class: a dataclass whose sequence fields are tuples, with a default for each field.
        values: its fields; those left out keep their defaults.
        path: where they come from, for the message.

    Returns:
        The config.

    Raises:
        ValueError: a field that this version does not know, or a value that makes no sense.
    """
    try:
        config = config_class(
            **{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        )
        for field in fields(config):
            kind, value = type(field.default), getattr(config, field.name)
            if not isinstance(value, (int, float) if kind is float else kind):
                raise TypeError(f"{field.name} is {value!r}")
    except (AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"The metadata of '{path}' is not a {config_class.__name__}: it is damaged or of another version "
            f"({error}). Update the pack, or get the file again."
        ) from error
    return config


def read_config(
    checkpoint: Checkpoint, config_class: type[Config], infer: Callable[[Mapping[str, Tensor]], Config]
) -> Config:
    """Read a network's sizes from a file's metadata, or off its tensors where the file is not ours.

    Args:
        checkpoint: the file.
        config_class: a dataclass of the sizes.
        infer: reads the sizes off the tensors of an official file, of any shape.

    Returns:
        The sizes.

    Raises:
        ValueError: damaged metadata, or tensors of another network.
    """
    if checkpoint.config:
        return build_config(config_class, checkpoint.config, checkpoint.path)
    return infer(checkpoint.tensors)


def fill(
    network: Network, tensors: Mapping[str, Tensor], path: str, optional: tuple[str, ...] = ()
) -> Network:
    """Copy a file's tensors into a network, and set it to evaluation without gradients.

    Args:
        network: with the tensor names of the file.
        tensors: of the file, each in the network's shape.
        path: of the file, for messages.
        optional: prefixes of names that may be missing.

    Returns:
        The network.

    Raises:
        ValueError: names or shapes differ.
    """
    load_strictly(network, tensors, path, optional)
    return network.eval().requires_grad_(False)
