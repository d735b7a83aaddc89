"""S* in a prompt: hand-made chunks of tokens, with a second implementation of ComfyUI's rule for cutting."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from face2diffusion.f2d.prompt.injection import (
    Subject,
    Token,
    check_placeholder,
    delayed_ranges,
    has_rows,
    inject_tokens,
    insertion_rows,
    isolate,
    replace_placeholders,
)
from torch import Tensor

START, END = 49406, 49407
S_STAR = (338, 265)  # what CLIP makes of "S*"
F_L = (325, 331)
THREE = (338, 272, 265)  # what CLIP makes of "S1*"
WIDTH = 6
LENGTH = 77

Word = tuple[list, float]  # tokens of one weighted piece of text, and their weight
POSITIONS = torch.randn(LENGTH, WIDTH, generator=torch.Generator().manual_seed(0))
TABLE = torch.randn(500, WIDTH, generator=torch.Generator().manual_seed(1))


def cut(words: Sequence[Word], padding: int = END) -> list[list[Token]]:
    """ComfyUI's rule: a piece of fewer than 8 tokens stays in one chunk, a longer one is cut at its end."""
    chunks: list[list[Token]] = [[(START, 1.0, 0)]]

    def close() -> None:
        chunks[-1].append((END, 1.0, 0))
        chunks[-1].extend([(padding, 1.0, 0)] * (LENGTH - len(chunks[-1])))

    for number, (tokens, weight) in enumerate(words, start=1):
        rest = list(tokens)
        while rest:
            room = LENGTH - 1 - len(chunks[-1])
            if len(rest) > room:
                taken = rest[:room] if len(tokens) >= 8 else []
                chunks[-1].extend((token, weight, number) for token in taken)
                rest = rest[len(taken) :]
                close()
                chunks.append([(START, 1.0, 0)])
            else:
                chunks[-1].extend((token, weight, number) for token in rest)
                rest = []
    close()
    return chunks


def subject(ids: tuple[int, ...] = S_STAR, seed: int = 2, **changes) -> Subject:
    generator = torch.Generator().manual_seed(seed)
    words, class_rows = torch.randn(2, WIDTH, generator=generator), torch.randn(2, WIDTH, generator=generator)
    return Subject("S*", ids, **({"words": words, "class_rows": class_rows} | changes))


def same(chunks: Sequence[Sequence[Token]], others: Sequence[Sequence[Token]]) -> bool:
    """Whether two prompts agree in every token, weight and word id."""
    if [len(chunk) for chunk in chunks] != [len(chunk) for chunk in others]:
        return False
    pairs = [
        pair for chunk, other in zip(chunks, others, strict=True) for pair in zip(chunk, other, strict=True)
    ]
    return all(a[1:] == b[1:] and (a[0] is b[0] or isinstance(a[0], int) and a[0] == b[0]) for a, b in pairs)


def rows_at(chunks: Sequence[Sequence[Token]]) -> list[tuple[int, int]]:
    return [
        (number, index)
        for number, chunk in enumerate(chunks)
        for index, token in enumerate(chunk)
        if isinstance(token[0], Tensor)
    ]


def assert_words_at(
    chunks: Sequence[Sequence[Token]], person: Subject, places: Sequence[tuple[int, int]]
) -> None:
    """S1* and S2* stand at the given places: adding the position embedding gives the words themselves."""
    for half, (number, index) in enumerate(places):
        torch.testing.assert_close(chunks[number][index][0] + POSITIONS[index], person.words[half % 2])


def embed(chunks: Sequence[Sequence[Token]]) -> Tensor:
    """What a text encoder does first: token embedding or row, plus position embedding."""
    rows = [
        [token[0] if isinstance(token[0], Tensor) else TABLE[token[0] % 500] for token in chunk]
        for chunk in chunks
    ]
    return torch.stack([torch.stack(chunk) + POSITIONS for chunk in rows])


# --- Tokens ----------------------------------------------------------------------------------------------


def test_words_stand_at_the_places_of_the_placeholder() -> None:
    person = subject()
    chunks = inject_tokens(cut([([320, 1125, 539, *S_STAR, 536], 1.0)]), [person], POSITIONS)
    assert rows_at(chunks) == [(0, 4), (0, 5)]
    assert_words_at(chunks, person, rows_at(chunks))
    assert [token[0] for token in chunks[0][:4]] == [START, 320, 1125, 539]
    assert [token[0] for token in chunks[0][6:9]] == [536, END, END]


def test_every_occurrence_is_replaced_with_its_own_position() -> None:
    person = subject()
    chunks = inject_tokens(cut([([*S_STAR, 7, *S_STAR, *S_STAR], 1.0)]), [person], POSITIONS)
    assert rows_at(chunks) == [(0, 1), (0, 2), (0, 4), (0, 5), (0, 6), (0, 7)]
    assert_words_at(chunks, person, rows_at(chunks))


def test_own_embeddings_before_the_position_give_the_plain_prompt() -> None:
    plain = cut([([320, 1125, 539, *S_STAR, 536, 320, 9], 1.0)])
    person = subject(words=TABLE[list(S_STAR)], positional="before")
    assert torch.equal(embed(inject_tokens(plain, [person], POSITIONS)), embed(plain))


def test_own_embeddings_with_their_position_give_the_plain_prompt() -> None:
    plain = cut([([320, 1125, 539, *S_STAR, 536, 320, 9], 1.0)])
    person = subject(words=TABLE[list(S_STAR)] + POSITIONS[4:6], positional="replace")
    torch.testing.assert_close(embed(inject_tokens(plain, [person], POSITIONS)), embed(plain))


def test_prompt_without_the_placeholder_stays_as_it_is() -> None:
    for words in ([], [([5, 6, 7], 1.0)], [([338, 5, 265], 1.2)], [(list(range(1, 200)), 1.0)]):
        assert same(inject_tokens(cut(words), [subject()], POSITIONS), cut(words))


def test_halves_of_a_placeholder_in_two_pieces_of_text_are_no_placeholder() -> None:
    chunks = inject_tokens(cut([([5, 338], 1.0), ([265, 6], 1.2)]), [subject()], POSITIONS)
    assert not has_rows(chunks)


def test_weights_are_kept() -> None:
    chunks = inject_tokens(cut([([320, 1125], 1.0), ([*S_STAR], 1.2), ([536], 0.8)]), [subject()], POSITIONS)
    assert [token[1] for token in chunks[0][:7]] == [1.0, 1.0, 1.0, 1.2, 1.2, 0.8, 1.0]


def test_embeddings_of_the_users_own_are_kept() -> None:
    own = [torch.randn(WIDTH) for _ in range(3)]
    chunks = inject_tokens(cut([(own, 1.1), ([*S_STAR], 1.0), (own, 1.0)]), [subject()], POSITIONS)
    assert [
        chunks[0][index][0] is vector for index, vector in zip((1, 2, 3, 6, 7, 8), own * 2, strict=True)
    ] == [True] * 6
    assert rows_at(chunks) == [(0, index) for index in range(1, 9)]


def test_two_people_stand_side_by_side() -> None:
    one, two = subject(S_STAR, seed=3), subject(F_L, seed=4)
    chunks = inject_tokens(cut([([*S_STAR, 537, *F_L], 1.0)]), [one, two], POSITIONS)
    assert_words_at(chunks, one, [(0, 1), (0, 2)])
    assert_words_at(chunks, two, [(0, 4), (0, 5)])


def test_placeholder_of_three_tokens_makes_room() -> None:
    person = subject(THREE)
    chunks = inject_tokens(cut([([320, *THREE, 536], 1.0)]), [person], POSITIONS)
    assert_words_at(chunks, person, [(0, 2), (0, 3)])
    assert [token[0] for token in (chunks[0][1], chunks[0][4], chunks[0][5])] == [320, 536, END]
    assert len(chunks[0]) == LENGTH


def test_placeholder_of_one_token_takes_two_places() -> None:
    person = subject((42,))
    chunks = inject_tokens(cut([([320, 42, 536], 1.0)]), [person], POSITIONS)
    assert_words_at(chunks, person, [(0, 2), (0, 3)])
    assert chunks[0][4][0] == 536 and len(chunks[0]) == LENGTH


def test_longer_placeholder_wins_over_its_beginning() -> None:
    short, long = subject((338,), seed=3), subject(S_STAR, seed=4)
    chunks = inject_tokens(cut([([*S_STAR, 338, 9], 1.0)]), [short, long], POSITIONS)
    assert_words_at(chunks, long, [(0, 1), (0, 2)])
    assert_words_at(chunks, short, [(0, 3), (0, 4)])


@pytest.mark.parametrize("before", [72, 73, 74, 75, 76], ids=lambda n: f"{n} tokens before")
def test_words_are_never_torn_apart_by_the_end_of_a_chunk(before: int) -> None:
    person = subject()
    prompt = cut([([*[9] * before, *S_STAR, 8], 1.0)])
    chunks = inject_tokens(prompt, [person], POSITIONS)
    first = (0, 1 + before) if before <= 73 else (1, 1 + max(0, before - 75))
    assert rows_at(chunks) == [first, (first[0], first[1] + 1)]
    assert_words_at(chunks, person, rows_at(chunks))
    assert all(len(chunk) == LENGTH and chunk[0][0] == START and chunk[-1][0] == END for chunk in chunks)
    if before == 74:  # ComfyUI puts S1* into the last place, and S2* into the next chunk
        assert prompt[0][75][0] == S_STAR[0] and prompt[1][1][0] == S_STAR[1]
        assert [token[0] for token in chunks[0][73:]] == [9, 9, END, END]


def test_second_chunk_counts_positions_anew() -> None:
    person = subject()
    chunks = inject_tokens(cut([([9] * 80 + [*S_STAR], 1.0)]), [person], POSITIONS)
    assert_words_at(chunks, person, [(1, 6), (1, 7)])


def test_padding_other_than_the_end_token_is_kept() -> None:
    prompt = cut([([320, *S_STAR], 1.0)], padding=0)
    chunks = inject_tokens(prompt, [subject()], POSITIONS)
    assert [token[0] for token in chunks[0][4:]] == [END] + [0] * 72


def random_words(generator: random.Random, ids: tuple[int, ...]) -> list[Word]:
    words = []
    for _ in range(generator.randint(1, 12)):
        tokens: list = []
        for _ in range(generator.choice([1, 2, 5, 6, 7, 8, 9, 30, 90])):
            tokens.extend(ids if generator.random() < 0.15 else [generator.randint(1, 300)])
        words.append((tokens, generator.choice([1.0, 1.2])))
    return words


@pytest.mark.parametrize("ids", [S_STAR, THREE, (42,)], ids=["two tokens", "three tokens", "one token"])
def test_prompt_is_cut_as_comfyui_would_cut_it(ids: tuple[int, ...]) -> None:
    """Against the rule above, on random prompts; S* counts as one piece of two tokens."""
    generator, seen_torn = random.Random(0), 0
    for _ in range(300):
        words = random_words(generator, ids)
        chunks = inject_tokens(cut(words), [subject(ids)], POSITIONS)
        expected = cut_in_units(words, ids)
        shown = [
            [
                ("S", "*")[index % 2] if isinstance(token, Tensor) else token
                for index, token in enumerate_rows(chunk)
            ]
            for chunk in chunks
        ]
        assert shown == [[token for token, _, _ in chunk] for chunk in expected]
        assert [[token[1:] for token in chunk] for chunk in chunks] == [
            [token[1:] for token in chunk] for chunk in expected
        ]
        seen_torn += (
            len(ids) == 2
            and [len(chunk) for chunk in chunks] == [LENGTH] * len(chunks)
            and not same_layout(chunks, cut(words))
        )
    assert len(ids) != 2 or seen_torn > 10, "Expected some prompts in which S* meets the end of a chunk"


def cut_in_units(words: Sequence[Word], ids: tuple[int, ...]) -> list[list[Token]]:
    """The rule again, token by token, with "S" and "*" for the two words, which stay together."""
    chunks: list[list[Token]] = [[(START, 1.0, 0)]]
    for number, (tokens, weight) in enumerate(words, start=1):
        units: list[list] = []
        index = 0
        while index < len(tokens):
            found = tuple(tokens[index : index + len(ids)]) == ids
            units.append(["S", "*"] if found else [tokens[index]])
            index += len(ids) if found else 1
        if len(tokens) < 8:
            units = [[token for unit in units for token in unit]]
        for unit in units:
            if len(chunks[-1]) + len(unit) > LENGTH - 1:
                chunks.append([(START, 1.0, 0)])
            chunks[-1].extend((token, weight, number) for token in unit)
    return [chunk + [(END, 1.0, 0)] * (LENGTH - len(chunk)) for chunk in chunks]


def enumerate_rows(chunk: Sequence[Token]) -> list[tuple[int, object]]:
    """Number the rows of a chunk from 0; other tokens get -1."""
    numbered, count = [], 0
    for token, _, _ in chunk:
        numbered.append((count if isinstance(token, Tensor) else -1, token))
        count += isinstance(token, Tensor)
    return numbered


def same_layout(chunks: Sequence[Sequence[Token]], others: Sequence[Sequence[Token]]) -> bool:
    return [[token[2] for token in chunk] for chunk in chunks] == [
        [token[2] for token in chunk] for chunk in others
    ]


# --- Rows ------------------------------------------------------------------------------------------------


def test_rows_take_off_the_position_that_the_encoder_adds() -> None:
    words = torch.randn(3, 2, WIDTH)
    torch.testing.assert_close(insertion_rows(words, POSITIONS[4:6], "replace") + POSITIONS[4:6], words)
    assert torch.equal(insertion_rows(words, POSITIONS[4:6], "before"), words)


@pytest.mark.parametrize("positional", ["replace", "before"])
def test_strength_zero_gives_the_class_words_exactly(positional: str) -> None:
    person = subject(positional=positional, strength=0.0)
    assert torch.equal(person.rows(POSITIONS[3:5]), person.class_rows)


@pytest.mark.parametrize("times", [1, 500])
@pytest.mark.parametrize("positional", ["replace", "before"])
def test_strength_turns_from_class_words_to_the_person_however_long_the_words(
    positional: str, times: int
) -> None:
    words = times * subject().words

    def seen(strength: float) -> torch.Tensor:
        return (
            subject(positional=positional, words=words, strength=strength).rows(POSITIONS[3:5])
            + POSITIONS[3:5]
        )

    start, end = seen(0), seen(1)
    steps = [
        torch.cosine_similarity(seen(strength), start)
        for strength in (0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 1.5, 2.0)
    ]
    assert all((later < earlier).all() for earlier, later in pairwise(steps))
    middle = seen(0.5)
    torch.testing.assert_close(torch.cosine_similarity(middle, start), torch.cosine_similarity(middle, end))
    torch.testing.assert_close(middle.norm(dim=1), (start.norm(dim=1) * end.norm(dim=1)).sqrt())
    torch.testing.assert_close(seen(1 - 1e-6), end, rtol=1e-4, atol=1e-4 * times)
    torch.testing.assert_close(seen(1e-6), start, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen(1.5).norm(dim=1), end.norm(dim=1))


def test_rows_are_told_from_tokens() -> None:
    assert not has_rows(cut([([5, 6], 1.0)]))
    assert has_rows(inject_tokens(cut([([5, *S_STAR], 1.0)]), [subject()], POSITIONS))


# --- Text ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("A photo of S* as a chef", "A photo of S* as a chef"),
        ("S*", "S*"),
        ("S*, smiling", "S* , smiling"),
        ("S*'s dog", "S* 's dog"),
        ("(S*:1.2)", "( S* :1.2)"),
        ("[S*|cat]", "[ S* |cat]"),
        ("by S*.", "by S* ."),
        ("S**", "S* *"),
        ('"S*"', '" S* "'),
        ("s* and S*", "s* and S*"),
        ("S*\nS*", "S* S*"),
        ("", ""),
        ("nobody", "nobody"),
    ],
)
def test_placeholder_is_separated_from_punctuation(prompt: str, expected: str) -> None:
    assert isolate(prompt, ["S*"]).split() == expected.split()


def test_separating_twice_changes_nothing_more() -> None:
    once = isolate("(S*:1.2), S*'s hat", ["S*"])
    assert isolate(once, ["S*"]).split() == once.split()


@pytest.mark.parametrize(
    "prompt", ["of life", "half lit", "brief letter", "fl", "f-l", "self land", "f lamp", "of l"]
)
def test_letters_of_a_placeholder_inside_other_words_are_no_placeholder(prompt: str) -> None:
    assert isolate(prompt, ["f l"]) == prompt


def test_letters_with_spaces_are_found() -> None:
    assert isolate("a photo of f l, smiling", ["f l"]).split() == [
        "a",
        "photo",
        "of",
        "f",
        "l",
        ",",
        "smiling",
    ]
    assert replace_placeholders("a photo of F  L", ["f l"]) == "a photo of a person"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("alice, embedding:alice", "[alice], embedding:alice"),
        ("embedding:alice, alice", "embedding:alice, [alice]"),
        ("embedding:alice,alice", "embedding:alice,[alice]"),
        ("(embedding:alice:1.2) (alice:1.2)", "(embedding:alice:1.2) ([alice]:1.2)"),
        ("((embedding:alice)alice)", "((embedding:alice)[alice])"),
        ("embedding:friends/alice.v2\nalice", "embedding:friends/alice.v2\n[alice]"),
        ("embedding:friends-alice embedding:alice", "embedding:friends-alice embedding:alice"),
        ("embedding: alice and alice", "embedding: alice and [alice]"),
        (r"embedding:friends\(alice\) alice", r"embedding:friends\(alice\) [alice]"),
        ("embedding:bob[alice]", "embedding:bob[[alice]]"),
        ("my Embedding:alice", "my Embedding:[alice]"),
    ],
)
def test_names_of_embeddings_are_no_placeholders(prompt: str, expected: str) -> None:
    assert isolate(prompt, ["alice"]) == expected.replace("[alice]", " alice ")
    if "[alice]" in expected:
        assert replace_placeholders(prompt, ["alice"]) == expected.replace("[alice]", "a person")
    else:
        with pytest.raises(ValueError, match="does not contain 'alice'"):
            replace_placeholders(prompt, ["alice"])


def test_placeholder_inside_the_name_of_an_embedding_is_no_error() -> None:
    assert isolate("embedding:xS*y, S*", ["S*"]).split() == ["embedding:xS*y,", "S*"]


@pytest.mark.parametrize("prompt", ["xS*", "S*2", "a photo of S*_2", "PS*", "S* and xS*"])
def test_placeholder_glued_to_a_word_is_an_error(prompt: str) -> None:
    with pytest.raises(ValueError, match=r"'[xP]?S\*\w*' in the prompt joins 'S\*'.*Put spaces around 'S\*'"):
        isolate(prompt, ["S*"])


@pytest.mark.parametrize("prompt", ["xS*", "S*2", "a photo of S*_2", "PS*"])
def test_a_tokenizer_leaves_a_glued_placeholder_as_it_is(prompt: str) -> None:
    assert isolate(prompt, ["S*"], strict=False) == prompt


def test_a_word_may_follow_at_once_as_in_clips_own_tokenizer() -> None:
    assert isolate("A photo of S*as a chef", ["S*"]).split() == ["A", "photo", "of", "S*", "as", "a", "chef"]
    assert isolate("aliceas a chef", ["alice"]) == "aliceas a chef"


def test_placeholder_inside_another_placeholder_is_no_error() -> None:
    assert isolate("AS*, S*", ["S*", "AS*"]).split() == ["AS*", ",", "S*"]
    with pytest.raises(ValueError, match=r"'xS\*' in the prompt"):
        isolate("AS* and xS*", ["S*", "AS*"])


@pytest.mark.parametrize(
    ("prompt", "placeholders", "expected"),
    [
        ("A photo of S* as a chef", ["S*"], "A photo of a person as a chef"),
        ("(S*:1.2), S*'s dog", ["S*"], "(a person:1.2), a person's dog"),
        ("S1* hugs S2*", ["S1*", "S2*"], "a person hugs a person"),
        ("a photo of f l", ["f l"], "a photo of a person"),
    ],
)
def test_class_prompt_names_no_one(prompt: str, placeholders: list[str], expected: str) -> None:
    assert replace_placeholders(prompt, placeholders) == expected


def test_class_words_are_taken_literally() -> None:
    assert replace_placeholders("S*", ["S*"], r"a \1 \g<0> man") == r"a \1 \g<0> man"


@pytest.mark.parametrize("placeholder", ["S*", "f l", "<alice>", "S1*", "人"])
def test_usual_placeholders_are_accepted_without_their_outer_spaces(placeholder: str) -> None:
    assert check_placeholder(f"  {placeholder} ") == placeholder


@pytest.mark.parametrize("subject_from", [0.05, 0.2, 0.5])
def test_class_prompt_and_subject_share_the_steps(subject_from: float) -> None:
    (first, switch), (again, last) = delayed_ranges(subject_from)
    assert (first, again, last) == (0.0, switch, 1.0)
    assert subject_from < switch < subject_from + 1e-3


@pytest.mark.parametrize(("steps", "with_class"), [(30, 6), (50, 10)])
def test_papers_delay_gives_a_fifth_of_the_steps_to_the_class_prompt(steps: int, with_class: int) -> None:
    (_, switch), _ = delayed_ranges(0.2)
    assert sum(step / (steps - 1) < switch for step in range(steps)) == with_class
