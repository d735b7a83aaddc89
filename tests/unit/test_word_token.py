"""A word of S* as a token: it finds its row where the text encoder puts it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from face2diffusion.f2d.prompt.injection import Subject, inject_tokens
from face2diffusion.f2d.prompt.word_token import WordToken
from torch import Tensor, nn

LENGTH, WIDTH, START, END = 12, 8, 1, 2
IDS, CLASS_IDS = (5, 6), (7, 8)


class Embeddings(nn.Module):
    """What a CLIP text encoder has: two tables."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.token_embedding, self.position_embedding = nn.Embedding(20, WIDTH), nn.Embedding(LENGTH, WIDTH)

    def encode(self, tokens: list) -> Tensor:
        """Put vectors into a sequence as ComfyUI does, and add the positions: shape (1, N, D)."""
        vectors = [(place, token) for place, token in enumerate(tokens) if isinstance(token, Tensor)]
        numbers = [token for token in tokens if not isinstance(token, Tensor)]
        found = self.token_embedding(torch.tensor([numbers]))
        for place, vector in vectors:
            vector = vector.view(1, -1, vector.shape[-1]).to(device="cpu", dtype=torch.float32)
            found = torch.cat([found[:, :place], vector, found[:, place:]], dim=1)
        return found + self.position_embedding.weight[None, : found.shape[1]]


@pytest.fixture
def embeddings() -> Embeddings:
    return Embeddings().requires_grad_(False)


def make_subject(embeddings: Embeddings, **changes) -> Subject:
    torch.manual_seed(1)
    class_rows = embeddings.token_embedding.weight[list(CLASS_IDS)]
    return Subject("S*", IDS, torch.randn(2, WIDTH), class_rows, **({"class_ids": CLASS_IDS} | changes))


def tokenize(subject: Subject, embeddings: Embeddings, content: list[int]) -> list:
    """The tokens of one chunk, without weights."""
    chunk = [(START, 1.0, 0), *((token, 1.0, 1) for token in content)]
    chunk += [(END, 1.0, 0)] * (LENGTH - len(chunk))
    positions = embeddings.position_embedding.weight
    (made,) = inject_tokens(
        [chunk], [subject], positions, lambda row, who, half: WordToken.make(row, who, half, embeddings)
    )
    return [token for token, _, _ in made]


def as_written(subject: Subject, embeddings: Embeddings, tokens: list) -> Tensor:
    """Overwrite token plus position embedding, as the authors do."""
    numbers = [END if isinstance(token, Tensor) else token for token in tokens]
    found = embeddings.encode(numbers)
    for place, token in enumerate(tokens):
        if isinstance(token, Tensor):
            found[0, place] = subject.words[token.number]
    return found


def test_it_is_the_row_of_the_place_where_it_was_made(embeddings: Embeddings) -> None:
    subject = make_subject(embeddings)
    tokens = tokenize(subject, embeddings, [9, *IDS, 10])
    torch.testing.assert_close(embeddings.encode(tokens), as_written(subject, embeddings, tokens))
    torch.testing.assert_close(
        torch.Tensor(tokens[2].as_subclass(Tensor)),
        subject.words[0] - embeddings.position_embedding.weight[2],
    )


@pytest.mark.parametrize("moved", [1, 3])
def test_it_is_right_where_another_node_has_moved_it(embeddings: Embeddings, moved: int) -> None:
    subject = make_subject(embeddings)
    tokens = tokenize(subject, embeddings, [*IDS, 10])
    tokens = [START, *[11] * moved, *tokens[1 : LENGTH - moved]]
    torch.testing.assert_close(embeddings.encode(tokens), as_written(subject, embeddings, tokens))
    stale = [token.as_subclass(Tensor) if isinstance(token, Tensor) else token for token in tokens]
    assert (embeddings.encode(stale) - as_written(subject, embeddings, tokens)).abs().max() > 0.1, (
        "Expected a difference that this test could miss nothing by"
    )


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_it_reads_what_is_in_the_text_encoder_when_it_encodes(
    embeddings: Embeddings, strength: float
) -> None:
    subject = make_subject(embeddings, strength=strength)
    tokens = tokenize(subject, embeddings, [9, *IDS, 10])
    with torch.no_grad():
        embeddings.position_embedding.weight += 0.5
        embeddings.token_embedding.weight *= 1.5
    fresh = make_subject(embeddings, strength=strength)
    torch.testing.assert_close(
        embeddings.encode(tokens), embeddings.encode(tokenize(fresh, embeddings, [9, *IDS, 10]))
    )


def test_it_equals_the_same_word_wherever_that_stands_and_no_number(embeddings: Embeddings) -> None:
    subject, other = make_subject(embeddings), make_subject(embeddings)
    first = [t for t in tokenize(subject, embeddings, [*IDS]) if isinstance(t, WordToken)]
    later = [t for t in tokenize(subject, embeddings, [9, 9, *IDS]) if isinstance(t, WordToken)]
    someone = [t for t in tokenize(other, embeddings, [*IDS]) if isinstance(t, WordToken)]
    assert torch.equal(first[0], later[0]) and torch.equal(first[1], later[1])
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[0], someone[0])
    assert first[0] not in [IDS[0], END, 0] and first[0] != END and (first[0] == END) is False
    assert first[0] not in {IDS[0], END}


def test_a_copy_is_the_same_word(embeddings: Embeddings) -> None:
    tokens = tokenize(make_subject(embeddings), embeddings, [9, *IDS])
    copied = copy.deepcopy([(token, 1.0) for token in tokens])
    torch.testing.assert_close(embeddings.encode([token for token, _ in copied]), embeddings.encode(tokens))
    assert torch.equal(copied[2][0], tokens[2])
    assert isinstance(copied[2][0], WordToken) and copied[2][0].subject is tokens[2].subject


def test_a_pickle_holds_the_values_only(embeddings: Embeddings) -> None:
    token = tokenize(make_subject(embeddings), embeddings, [9, *IDS])[2]
    data = pickle.dumps(token)
    assert type(pickle.loads(data)) is Tensor and torch.equal(pickle.loads(data), token.as_subclass(Tensor))
    assert len(data) < 2000


def test_arithmetic_gives_plain_tensors(embeddings: Embeddings) -> None:
    token = tokenize(make_subject(embeddings), embeddings, [*IDS])[1]
    for result in (token * 1.2, token + 1, token[:3], token.norm(), torch.stack([token, token])):
        assert type(result) is Tensor
    torch.testing.assert_close(token * 1.2, token.as_subclass(Tensor) * 1.2)
    assert torch.cat([token, token]).shape == (2 * WIDTH,)


def test_a_table_of_token_embeddings_gives_the_row(embeddings: Embeddings) -> None:
    token = tokenize(make_subject(embeddings), embeddings, [*IDS])[1]
    assert torch.equal(embeddings.token_embedding.weight[token], token.as_subclass(Tensor))


def test_it_says_its_name(embeddings: Embeddings) -> None:
    token = tokenize(make_subject(embeddings), embeddings, [*IDS])[2]
    assert repr(token) == f"{token}" == "S2* of 'S*'"
