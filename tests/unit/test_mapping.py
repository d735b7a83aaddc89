"""The mapping network: the paper's parameter counts, Eq. 4's dropped expression, sizes read from files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from face2diffusion.f2d import FaceEncoder
from face2diffusion.f2d.checkpoint import read, save
from face2diffusion.f2d.networks.mapping import MapperConfig, MappingNetwork, infer_config, load_mapper
from support.official import write_mapper

SMALL = MapperConfig(id_dim=24, exp_dim=6, hidden_dim=32, word_dim=10)


@pytest.fixture
def mapper() -> MappingNetwork:
    torch.manual_seed(0)
    mapper = MappingNetwork(SMALL).eval()
    torch.nn.init.normal_(mapper.null_exp)
    return mapper


@pytest.fixture
def v_id() -> torch.Tensor:
    return torch.randn(4, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def v_exp() -> torch.Tensor:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("exp_dim", "parameters"), [(64, 12_000_832), (0, 11_804_160)], ids=["Eq. 2", "Eq. 9"]
)
def test_parameters_are_the_papers(exp_dim: int, parameters: int) -> None:
    with torch.device("meta"):
        mapper = MappingNetwork(MapperConfig(exp_dim=exp_dim))
    assert sum(parameter.numel() for parameter in mapper.parameters()) == parameters


def test_official_file_has_the_papers_sizes_and_names(encoder: FaceEncoder, official: Path) -> None:
    tensors = read(official / "mapping.pt").tensors
    assert len(tensors) == 13
    assert encoder.mapper.config == MapperConfig()
    assert {name: tensor.shape for name, tensor in encoder.mapper.state_dict().items()} == {
        name: t.shape for name, t in tensors.items()
    }


def test_null_expression_of_a_new_network_is_zero() -> None:
    assert torch.equal(MappingNetwork(SMALL).null_exp, torch.zeros(6))


def test_dropped_expression_gives_the_same_words_whatever_it_was(
    mapper: MappingNetwork, v_id: torch.Tensor, v_exp: torch.Tensor
) -> None:
    keep = torch.zeros(4)
    words = mapper(v_id, v_exp, keep)
    assert torch.equal(words, mapper(v_id, 100 * v_exp + 7, keep))
    assert torch.equal(words, mapper(v_id))


def test_kept_expression_ignores_the_null_expression(
    mapper: MappingNetwork, v_id: torch.Tensor, v_exp: torch.Tensor
) -> None:
    words = mapper(v_id, v_exp, torch.ones(4))
    mapper.null_exp.data += 100
    assert torch.equal(words, mapper(v_id, v_exp, torch.ones(4)))
    assert torch.equal(words, mapper(v_id, v_exp))


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.int64])
def test_expressions_are_dropped_row_by_row(
    mapper: MappingNetwork, v_id: torch.Tensor, v_exp: torch.Tensor, dtype: torch.dtype
) -> None:
    words = mapper(v_id, v_exp, torch.tensor([1, 0, 0, 1]).to(dtype))
    torch.testing.assert_close(words[[0, 3]], mapper(v_id, v_exp)[[0, 3]])
    torch.testing.assert_close(words[[1, 2]], mapper(v_id)[[1, 2]])


def test_dropped_nan_does_not_spread(mapper: MappingNetwork, v_id: torch.Tensor, v_exp: torch.Tensor) -> None:
    v_exp[1] = torch.nan
    assert mapper(v_id, v_exp, torch.tensor([True, False, True, True])).isfinite().all()


def test_gradient_reaches_the_null_expression_only_through_dropped_rows(
    mapper: MappingNetwork, v_id: torch.Tensor, v_exp: torch.Tensor
) -> None:
    def gradient(keep: list[int], rows: list[int]) -> torch.Tensor:
        mapper.zero_grad()
        mapper(v_id, v_exp, torch.tensor(keep))[rows].square().sum().backward()
        return mapper.null_exp.grad

    assert not gradient([1, 1, 1, 1], [0, 1, 2, 3]).any()
    assert not gradient([1, 0, 1, 1], [0, 2, 3]).any()
    assert gradient([1, 0, 1, 1], [1]).any()


def test_words_have_a_network_each(mapper: MappingNetwork, v_id: torch.Tensor) -> None:
    before = mapper(v_id)
    mapper.i2t_last.fc_out.bias.data += 1
    after = mapper(v_id)
    assert torch.equal(before[:, 0], after[:, 0])
    torch.testing.assert_close(after[:, 1], before[:, 1] + 1)


def test_batch_of_two_equals_two_batches_of_one(
    mapper: MappingNetwork, v_id: torch.Tensor, v_exp: torch.Tensor
) -> None:
    torch.testing.assert_close(
        mapper(v_id[:2], v_exp[:2]), torch.cat([mapper(v_id[:1], v_exp[:1]), mapper(v_id[1:2], v_exp[1:2])])
    )


def test_random_dropout_works_in_training_only(mapper: MappingNetwork, v_id: torch.Tensor) -> None:
    assert torch.equal(mapper(v_id), mapper(v_id))
    assert not torch.equal(mapper.train()(v_id), mapper(v_id))


def test_network_without_expression_has_no_null_expression(v_id: torch.Tensor) -> None:
    mapper = MappingNetwork(replace(SMALL, exp_dim=0))
    assert "null_exp" not in mapper.state_dict()
    assert mapper(v_id).shape == (4, 2, 10)


def test_words_of_a_fixed_length_keep_their_direction(mapper: MappingNetwork, v_id: torch.Tensor) -> None:
    fixed = MappingNetwork(replace(SMALL, word_length=6.0)).eval()
    fixed.load_state_dict(mapper.state_dict())
    words, free = fixed(v_id), mapper(v_id)
    torch.testing.assert_close(words.norm(dim=-1), torch.full((4, 2), 6.0))
    torch.testing.assert_close(words / 6, free / free.norm(dim=-1, keepdim=True))


@pytest.mark.parametrize("field", ["word_length", "exp_scale"])
def test_what_goes_beyond_the_paper_is_in_the_file_and_older_files_have_none(
    mapper: MappingNetwork, v_id: torch.Tensor, tmp_path: Path, field: str
) -> None:
    config = replace(SMALL, **{field: 2.5})
    save(tmp_path / "new.safetensors", mapper.state_dict(), "mapper", config)
    assert load_mapper(read(tmp_path / "new.safetensors")).config == config
    older = read(tmp_path / "new.safetensors")
    del older.config[field]
    assert load_mapper(older).config == SMALL
    assert torch.equal(load_mapper(older)(v_id), mapper(v_id))


@pytest.mark.parametrize("length", [-1.0, float("nan"), float("inf")])
def test_impossible_word_lengths_are_refused(length: float) -> None:
    with pytest.raises(ValueError, match="word_length"):
        replace(SMALL, word_length=length)


def test_scaled_expressions_leave_the_null_expression_as_it_is(
    mapper: MappingNetwork, v_id: torch.Tensor
) -> None:
    v_exp = torch.randn(4, 6)
    scaled = MappingNetwork(replace(SMALL, exp_scale=3.0)).eval()
    scaled.load_state_dict(mapper.state_dict())
    assert torch.equal(scaled(v_id, v_exp), mapper(v_id, 3 * v_exp))
    assert torch.equal(scaled(v_id), mapper(v_id))
    dropped = torch.zeros(4)
    assert torch.equal(scaled(v_id, v_exp, dropped), mapper(v_id))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_scales_of_expressions_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="exp_scale"):
        replace(SMALL, exp_scale=scale)


@pytest.mark.parametrize("sizes", [
    {"id_dim": 384, "exp_dim": 64, "word_dim": 768, "hidden_dim": 100},
    {"id_dim": 1536, "exp_dim": 0, "word_dim": 1024, "hidden_dim": 48},
    {"id_dim": 20, "exp_dim": 5, "word_dim": 7, "hidden_dim": 9},
])  # fmt: skip
def test_sizes_are_read_from_a_plain_file(tmp_path: Path, sizes: dict) -> None:
    mapper = load_mapper(read(write_mapper(tmp_path / "mapping.pt", **sizes)))
    assert mapper.config == MapperConfig(**sizes)
    assert not mapper.training


def test_metadata_carries_what_shapes_cannot_tell(
    mapper: MappingNetwork, v_id: torch.Tensor, tmp_path: Path
) -> None:
    unusual = MappingNetwork(replace(SMALL, slope=0.01, dropout=0.5, positional="before")).eval()
    save(tmp_path / "mapper.safetensors", unusual.state_dict(), "mapper", unusual.config)
    loaded = load_mapper(read(tmp_path / "mapper.safetensors"))
    assert loaded.config == unusual.config != infer_config(unusual.state_dict())
    assert torch.equal(loaded(v_id), unusual(v_id))


def test_deeper_networks_are_read_from_a_plain_file(tmp_path: Path) -> None:
    mapper = MappingNetwork(replace(SMALL, hidden_layers=4))
    torch.save(mapper.state_dict(), tmp_path / "mapping.pt")
    assert load_mapper(read(tmp_path / "mapping.pt")).config.hidden_layers == 4
