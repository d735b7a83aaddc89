"""What every benchmark prints first."""

import platform

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def machine():
    """The machine that the figures belong to."""
    processor = platform.processor() or platform.machine()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"\n{processor}, {torch.get_num_threads()} threads, {gpu}; {versions}")
