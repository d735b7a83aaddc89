"""From a weight file to a network that is ready for evaluation: what the method's networks have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from torch import Tensor, nn

from ..checkpoint import Checkpoint, build_config, load_strictly

Config = TypeVar("Config")
Network = TypeVar("Network", bound=nn.Module)


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
