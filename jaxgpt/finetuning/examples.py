"""Files of examples -> `TokenizedExamples` for training and for held-out, and what they are.

All is serial and a pure function of the files, the settings and the tokenizer: no seed. An example
is held out by the hash of its prompt, that is of the user's first message. So examples with one
prompt stand on one side, and rows that are added later move no other.

Axes: S sequences, M parts, N ids of contents, E examples.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxgpt.config import configclass
from jaxgpt.corpus.documents.content_hash import content_hash
from jaxgpt.corpus.documents.splits import draw
from jaxgpt.errors import BadInputError
from jaxgpt.finetuning import cutting
from jaxgpt.finetuning.copies import (
    NearCopies,
    count_evaluation_copies,
    find_near_copies,
    first_of_copies,
    text_of,
)
from jaxgpt.finetuning.cutting import MIN_CONTEXT, LongAnswers, TooLong
from jaxgpt.finetuning.description import ExamplesDescription
from jaxgpt.finetuning.forms.form import Example, Form, Tokens
from jaxgpt.finetuning.forms.recognised import Recognised
from jaxgpt.finetuning.rows import ReadExamples, read_rows
from jaxgpt.finetuning.tokenized import TokenizedExamples
from jaxgpt.tokenizer.chat_template import USER, ChatTemplate
from jaxgpt.tokenizer.sequences import Parts, assemble
from jaxgpt.tokenizer.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_NUM_NAMED = 20


@configclass
class ExamplesConfig:
    """Files of examples, and how they are read."""

    files: tuple[str, ...] = ()
    """Files, folders, globs or URLs: .jsonl, .json, .csv, .tsv or .parquet, plain or compressed."""
    form: Form = Recognised()
    """Form of the rows: the fields that make an example. Recognised looks at the first rows."""
    held_out_share: float = 0.05
    """Share of the prompts that are held out of training, chosen by content."""
    too_long: TooLong = "cut"
    """Treatment of examples longer than the context. cut: the beginning of the prompt is lost;
    drop: the example is left out; refuse: an error."""
    long_answers: LongAnswers = "cut"
    """Treatment of examples whose answer alone is too long, where too_long is cut. cut: the end of
    the answer is lost; drop: the example is left out."""
    max_bad_share: float = 0.01
    """Share of bad rows above which the data is refused."""
    near_copy_similarity: float | None = 0.8
    """Least Jaccard similarity of word 5-grams at which two examples are reported as near copies;
    None to look for none."""
    evaluation_files: tuple[str, ...] = ()
    """Evaluation files whose copies among the examples are reported: .jsonl, .json, .csv, .txt."""

    def __post_init__(self) -> None:
        if not 0 <= self.held_out_share < 1:
            raise ValueError(f"held_out_share = {self.held_out_share}; it must lie in [0, 1)")
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"max_bad_share = {self.max_bad_share}; it must lie in [0, 1]")
        if self.near_copy_similarity is not None and not 0 < self.near_copy_similarity <= 1:
            raise ValueError(
                f"near_copy_similarity = {self.near_copy_similarity}; it must lie in (0, 1]"
            )


@dataclass(frozen=True)
class Examples:
    """Examples on both sides.

    Attributes:
        training, held_out: as arrays. Labels are those that the form documents.
        label_names: names of the classes, in the order of their numbers; () without classes.
        description: what was read.
    """

    training: TokenizedExamples
    held_out: TokenizedExamples
    label_names: tuple[str, ...]
    description: ExamplesDescription


def read_examples(
    config: ExamplesConfig, tokenizer: Tokenizer, max_length: int, option: str = "--data"
) -> Examples:
    """Read files into examples of at most `max_length` ids per sequence.

    Args:
        config: files, their form and what happens to odd rows.
        tokenizer: that of the model.
        max_length: ids of the model's context, BOS among them.
        option: what the user names the files with, for errors.

    Raises:
        UsageError: a path names nothing, or a file without rows.
        BadInputError: as `read_rows`; an example is too long where that is refused; or no example
            is left for training.
    """
    if max_length < MIN_CONTEXT:
        raise BadInputError(
            f"a context of {max_length} tokens is too short for examples; at least {MIN_CONTEXT}"
        )
    read = read_rows(config.files, config.form, config.max_bad_share, option)
    unique = _without_copies(read)
    form = read.files[0].form
    labels, label_names = form.label_arrays(unique.examples)
    fitted = _fit(config, form, unique, ChatTemplate(tokenizer), max_length)
    tokens_N, weights_N, offsets = assemble(fitted.parts, tokenizer.bos_id)
    places = Tokens(offsets, tokenizer.bytes_per_token[tokens_N])
    of_tokens = form.token_labels(unique.examples, places, label_names)
    tokenized = TokenizedExamples(tokens_N, weights_N, offsets, form.group_size, labels, of_tokens)
    is_held_out_E = _is_held_out([each.prompt for each in unique.examples], config.held_out_share)
    training = np.flatnonzero(fitted.is_kept_E & ~is_held_out_E)
    held_out = np.flatnonzero(fitted.is_kept_E & is_held_out_E)
    if not len(training):
        raise BadInputError(
            f"{option} {' '.join(config.files)}: no example of {len(tokenized):,} is left for "
            f"training ({len(held_out):,} are held out, {(~fitted.is_kept_E).sum():,} are too "
            "long); give more examples"
        )
    if config.held_out_share and not len(held_out):
        logger.warning("no example is held out: %d examples are too few", len(training))
    sides = tokenized.select(training), tokenized.select(held_out)
    kept = [unique.examples[place] for place in np.flatnonzero(fitted.is_kept_E).tolist()]
    description = ExamplesDescription(
        noun=form.noun,
        forms=tuple((f.name, f.form.describe(), f.num_rows, f.unused) for f in read.files),
        bad=dict(read.bad.counts.most_common()),
        bad_rows=tuple(read.bad.first),
        label_counts=_count_labels(form, kept, label_names),
        max_length=max_length,
        num_turns=sum(part.role == USER for each in kept for part in each.sequences[0]),
        **_describe_sides(fitted, *sides),
        **_describe_copies(config, unique, is_held_out_E),
    )
    for line in description.lines():
        logger.info("%s", line)
    return Examples(*sides, label_names, description)


@dataclass(frozen=True)
class _Unique:
    """Examples of which no two are equal, their places, and (place, first) of the others."""

    examples: list[Example]
    locations: list[str]
    copies: list[tuple[str, str]]


def _without_copies(read: ReadExamples) -> _Unique:
    firsts = first_of_copies(read.examples).tolist()
    kept = [place for place, first in enumerate(firsts) if place == first]
    return _Unique(
        examples=[read.examples[place] for place in kept],
        locations=[read.locations[place] for place in kept],
        copies=[
            (read.locations[place], read.locations[first])
            for place, first in enumerate(firsts)
            if place != first
        ],
    )


def encode_parts(examples: Sequence[Example], template: ChatTemplate) -> Parts:
    """Return the parts of all sequences, all texts encoded at once."""
    sequences = [sequence for each in examples for sequence in each.sequences]
    parts = [part for sequence in sequences for part in sequence]
    contents_N, offsets = template.tokenizer.encode_to_array([part.text for part in parts])
    frames = {role: template.frame(role) for role in {part.role for part in parts}}
    openings_M, closings_M = np.array([frames[part.role] for part in parts], np.int32).T
    return Parts(
        contents_N=contents_N,
        starts_M=offsets[:-1],
        stops_M=offsets[1:],
        openings_M=openings_M,
        closings_M=closings_M,
        is_target_M=np.array([part.is_target for part in parts], bool),
        num_parts_S=np.array([len(sequence) for sequence in sequences], np.int64),
    )


def _fit(
    config: ExamplesConfig, form: Form, unique: _Unique, template: ChatTemplate, max_length: int
) -> cutting.Fitted:
    """Make every sequence fit the context, as the config says."""
    examples = unique.examples
    parts = encode_parts(examples, template)
    group_size = len(examples[0].sequences)
    too_long_E = cutting.too_long(parts, group_size, max_length)
    if config.too_long == "refuse" and too_long_E.any():
        place = int(np.flatnonzero(too_long_E)[0])
        num_tokens = cutting.longest_sequence(parts, group_size, place)
        cutting.refuse(unique.locations[place], num_tokens, max_length)
    prompts_E = np.array([each.num_prompt_parts for each in examples], np.int64)
    fitted = cutting.fit(parts, prompts_E, group_size, max_length, template, config.long_answers)
    if config.too_long == "cut" and not form.can_be_cut and too_long_E.any():
        logger.warning(
            "%d examples of %d are left out: %s cannot be cut to the context of %d tokens; give "
            "longer rows (--batch.sequence-length)",
            too_long_E.sum(), len(examples), form.describe(), max_length,
        )  # fmt: skip
    if config.too_long == "drop" or not form.can_be_cut:
        none_E = np.zeros(len(examples), bool)
        return cutting.Fitted(fitted.parts, ~too_long_E, none_E, none_E)
    return fitted


def _is_held_out(prompts: Sequence[str], share: float) -> np.ndarray:
    """Return whether an example is held out: bool [E]."""
    threshold = int(share * 2**64)
    return np.array(
        [draw("held_out", 0, content_hash(prompt)) < threshold for prompt in prompts], bool
    )


def _count_labels(
    form: Form, examples: Sequence[Example], names: tuple[str, ...]
) -> dict[str, int]:
    """Return the examples of each class, or their parts."""
    counts = Counter(name for each in examples for name in form.classes_of(each)) if names else {}
    return {name: counts[name] for name in names}


def _describe_sides(
    fitted: cutting.Fitted, training: TokenizedExamples, held_out: TokenizedExamples
) -> dict[str, int]:
    """Return the fields of the description that are about numbers of examples and tokens."""
    return {
        "num_training": len(training),
        "num_held_out": len(held_out),
        "num_tokens": len(training.tokens_N) + len(held_out.tokens_N),
        "num_targets": training.num_targets + held_out.num_targets,
        "num_cut": int((fitted.is_cut_E & fitted.is_kept_E).sum()),
        "num_long_answers": int((fitted.is_long_E & fitted.is_kept_E).sum()),
        "num_dropped": int((~fitted.is_kept_E).sum()),
    }


def _describe_copies(
    config: ExamplesConfig, unique: _Unique, is_held_out_E: np.ndarray
) -> dict[str, Any]:
    """Return the fields of the description that are about copies."""
    texts, places = [text_of(each) for each in unique.examples], unique.locations
    near = NearCopies(np.full(len(texts), -1), ())
    if config.near_copy_similarity is not None:
        near = find_near_copies(texts, config.near_copy_similarity)
    in_training = near.groups_E[~is_held_out_E & (near.groups_E >= 0)]
    return {
        "num_copies": len(unique.copies),
        "copies": tuple(unique.copies[:_NUM_NAMED]),
        "num_near_copies": near.num_copies,
        "num_near_groups": near.num_groups,
        "num_near_held_out": int(np.isin(near.groups_E[is_held_out_E], in_training).sum()),
        "near_copies": tuple((places[a], places[b], round(j, 4)) for a, b, j in near.pairs),
        "evaluation_copies": count_evaluation_copies(texts, config.evaluation_files),
    }
