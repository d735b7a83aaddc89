"""The script that measures on a GPU, with small shapes: no figure of it may fail."""

from __future__ import annotations

import gpu_figures
import pytest
import torch


@pytest.mark.slow
def test_every_figure_is_measured(capsys):
    try:
        assert gpu_figures.main(["--small"]) == 0
    finally:
        torch.compiler.set_stance("default")
    rows = [line.split("|")[1:3] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][
        1:
    ]
    figures = {what.strip(): figure.strip() for what, figure in rows}
    for name in ("encode", "mapper, bf16, batch", "mapper, bf16, compiled", "MSID", "prepare, float32",
                 "prepare, bf16", "six metrics"):  # fmt: skip
        found = [figure for what, figure in figures.items() if what.startswith(name)]
        assert found and all(float(figure.split()[0]) > 0 for figure in found)
    for precision in ("fp16", "bf16"):
        assert figures[f"mapper, {precision}: a resumed run and an uninterrupted one"] == "equal to the bit"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_says_what_to_do(capsys):
    with pytest.raises(SystemExit):
        gpu_figures.main([])
    assert "--small" in capsys.readouterr().err
