"""Tokenizer files with which transformers gives the same ids as ours.

SentencePiece's file alone does not do: `LlamaTokenizer` puts a space before each text. A BPE
vocabulary becomes a `tokenizer.json` over pieces with real spaces, with no rule before or after
them. The one class of transformers that calls SentencePiece itself serves a unigram vocabulary.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

from jaxgpt.names.packages import import_package, install_advice
from jaxgpt.storage.durable import write_atomically, write_json
from jaxgpt.tokenizer import huggingface_file
from jaxgpt.tokenizer.jinja_template import JINJA
from jaxgpt.tokenizer.sentencepiece_model import (
    CONTROL_PIECES,
    SPACE_SYMBOL,
    PieceType,
    parse_model,
)
from jaxgpt.tokenizer.tokenizer import Tokenizer

_NAMED = ("bos", "eos", "unk", "pad")
_FAST, _SENTENCEPIECE = "PreTrainedTokenizerFast", "SentencePieceBackend"
_CLASSES = {"bpe": _FAST, "char": _FAST, "unigram": _SENTENCEPIECE}
# What the class needs in order to leave a text as it is.
_SETTINGS: dict[str, dict[str, Any]] = {
    _FAST: {},
    _SENTENCEPIECE: {
        "legacy": False,
        "add_prefix_space": False,
        "special_tokens_pattern": "bos",
        "extra_special_tokens": [
            text for name, text in CONTROL_PIECES.items() if name not in _NAMED
        ],
    },
}


def write_tokenizer(tokenizer: Tokenizer, folder: Path, context_length: int) -> None:
    """Write a tokenizer, its settings and its chat template.

    Args:
        tokenizer: of a run; files of one that was imported leave as they came.
        folder: it exists.
        context_length: most tokens that the model was trained on.
    """
    if tokenizer.kind == huggingface_file.KIND:
        _write_imported(huggingface_file.unpack(tokenizer.model), folder)
    else:
        _write_own(tokenizer, folder, context_length)


def _write_imported(values: dict[str, Any], folder: Path) -> None:
    write_json(folder / "tokenizer.json", values["tokenizer"])
    for name, content in values["files"].items():
        if isinstance(content, str):
            write_atomically(folder / name, content)
        else:
            write_json(folder / name, content)


def _write_own(tokenizer: Tokenizer, folder: Path, context_length: int) -> None:
    name = _CLASSES[tokenizer.kind]
    tokenizer.save(folder)
    if name == _FAST:
        write_atomically(folder / "tokenizer.json", to_tokenizers(tokenizer).to_str(pretty=True))
    settings = {
        "tokenizer_class": name,
        **{f"{token}_token": CONTROL_PIECES[token] for token in _NAMED},
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_length,
        **_SETTINGS[name],
    }
    write_json(folder / "tokenizer_config.json", settings)
    write_atomically(folder / "chat_template.jinja", JINJA)


def stop_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the ids that end a text: those of a document and of a message."""
    ids = tokenizer.special_ids
    return list(dict.fromkeys([ids["eos"], ids.get("end", ids["eos"])]))


def to_tokenizers(tokenizer: Tokenizer) -> Any:
    """Return a `tokenizers.Tokenizer` that encodes as a BPE or character vocabulary does.

    BOS comes first unless `add_special_tokens=False`. A control token that a text spells becomes
    its id there, and stays text in ours.
    """
    package = import_package("tokenizers", "writing a tokenizer", install_advice("export"))
    ids, merges = _vocabulary(parse_model(tokenizer.model).pieces)
    bos = CONTROL_PIECES["bos"]
    made = package.Tokenizer(
        package.models.BPE(
            ids, merges, unk_token=CONTROL_PIECES["unk"], fuse_unk=True, byte_fallback=True
        )
    )
    made.decoder = package.decoders.Sequence(
        [package.decoders.ByteFallback(), package.decoders.Fuse()]
    )
    made.add_special_tokens(
        [package.AddedToken(text, special=True, normalized=False)
         for text in CONTROL_PIECES.values()]
    )  # fmt: skip
    made.post_processor = package.processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.bos_id)]
    )
    return made


def _vocabulary(pieces: Any) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the ids of all pieces, and the merges in the order that SentencePiece has them.

    SentencePiece joins the pair whose result has the highest score, whichever pair it is.
    """
    ids: dict[str, int] = {}
    scores: dict[str, float] = {}
    for number, piece in enumerate(pieces):
        is_normal = piece.type == PieceType.NORMAL
        text = piece.piece.replace(SPACE_SYMBOL, " ") if is_normal else piece.piece
        ids[text] = number
        if is_normal:
            scores[text] = piece.score
    by_score: dict[float, list[tuple[str, str]]] = defaultdict(list)
    for text, score in scores.items():
        splits = ((text[:cut], text[cut:]) for cut in range(1, len(text)))
        known = [pair for pair in splits if pair[0] in scores and pair[1] in scores]
        by_score[score] += sorted(known, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    return ids, [pair for score in sorted(by_score, reverse=True) for pair in by_score[score]]
