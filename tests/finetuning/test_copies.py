"""Near copies: the pairs that an exact comparison of all pairs finds, but for unlikely ones."""

import itertools

import numpy as np

from jaxgpt.finetuning.copies import find_near_copies, first_of_copies, text_of
from jaxgpt.finetuning.forms.form import Example, Part


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[start : start + 5]) for start in range(len(words) - 4)}


def test_groups_are_those_of_all_pairs_compared() -> None:
    draw = np.random.default_rng(0)
    originals = [[f"w{n}" for n in draw.integers(0, 10**6, 80)] for _ in range(40)]
    # Words changed at the end: 0 to 60 of 80.
    texts = [" ".join(words) for words in originals]
    texts += [
        " ".join([*words[: 80 - num], *(f"v{n}" for n in draw.integers(0, 10**6, num))])
        for words, num in zip(originals, itertools.cycle([0, 4, 30, 60]), strict=False)
    ]
    sets = [shingles(text) for text in texts]
    alike = {
        (a, b): len(sets[a] & sets[b]) / len(sets[a] | sets[b])
        for a, b in itertools.combinations(range(len(texts)), 2)
    }
    wanted = {pair for pair, similarity in alike.items() if similarity >= 0.8}
    found = find_near_copies(texts, 0.8)
    together = {
        (a, b)
        for a, b in itertools.combinations(range(len(texts)), 2)
        if found.groups_E[a] >= 0 and found.groups_E[a] == found.groups_E[b]
    }
    assert together == wanted
    assert found.num_copies == len(wanted) == 20
    assert [alike[a, b] for a, b, _ in found.pairs] == [j for _, _, j in found.pairs] == [1.0] * 3


def test_texts_without_words_are_no_near_copies() -> None:
    assert find_near_copies(["", "...", ""], 0.8).num_groups == 0
    assert find_near_copies([], 0.8).num_copies == 0


def test_copies_are_equal_in_roles_targets_and_labels() -> None:
    def example(role: str | None, text: str, is_target: bool, label: object = None) -> Example:
        return Example(((Part(role, text, is_target),),), 0, text, label)

    kinds = [
        example("user", "a", False),
        example("user", "a", True),
        example("assistant", "a", False),
        example(None, "a", False),
        example("user", "a ", False),
        example("user", "a", False, ("x",)),
        example("user", "a\udcff", False),
    ]
    assert first_of_copies([*kinds, *kinds]).tolist() == [*range(7), *range(7)]


def test_the_text_of_a_pair_has_its_prompt_once() -> None:
    prompt = Part("user", "why?", False)
    sides = tuple((prompt, Part("assistant", text, True)) for text in ("a", "b"))
    assert text_of(Example(sides, 1, "why?")) == "why?\na\nb"
