"""Benchmarks run only when they are asked for: `pytest tests/benchmarks -s`."""

import platform

import pytest
import torch


def pytest_ignore_collect(collection_path, config):
    """Leave this folder out unless it is named on the command line."""
    return None if any("benchmarks" in str(argument) for argument in config.args) else True


@pytest.fixture(scope="session", autouse=True)
def machine():
    """Print the machine that the figures belong to."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(
        f"\n{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {gpu}; Python {platform.python_version()}, torch {torch.__version__}"
    )
