"""The SentencePiece model file behind a tokenizer: what it must be, and what its pieces stand for.

Encoding and decoding are in `tokenizer.py`; only training also touches the file's format.
"""

import hashlib
import struct
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from jaxgpt.errors import MismatchError, one_line

# SentencePiece writes a space as this character, so the character itself has no piece.
SPACE_SYMBOL = "\u2581"

# Name of each control token in code -> its piece in the model file. Their order is their ids.
CONTROL_PIECES = {
    "pad": "<pad>",
    "unk": "<unk>",
    "bos": "<s>",
    "eos": "</s>",
    "system": "<|system|>",
    "user": "<|user|>",
    "assistant": "<|assistant|>",
    "end": "<|end|>",
}

KINDS = {1: "unigram", 2: "bpe", 4: "char"}


class PieceType:
    """Values of a piece's `type`."""

    NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def _model_class() -> Any:
    """Return the protobuf class of a model file: the needed part of SentencePiece's format (0.2).

    SentencePiece comes with such a class, but that one refuses any protobuf older than the one it
    was generated with, and other packages may need an older one. Fields that are not listed are
    kept as they are.
    """
    kinds = descriptor_pb2.FieldDescriptorProto
    # Name: (number, type, default). Enumerations are integers on disk.
    messages = {
        "Piece": {
            "piece": (1, kinds.TYPE_STRING, ""),
            "score": (2, kinds.TYPE_FLOAT, "0"),
            "type": (3, kinds.TYPE_INT32, "1"),
        },
        "TrainerSpec": {
            "model_type": (3, kinds.TYPE_INT32, "1"),
            "input_format": (7, kinds.TYPE_STRING, ""),
            "num_threads": (16, kinds.TYPE_INT32, "16"),
            "treat_whitespace_as_suffix": (24, kinds.TYPE_BOOL, "false"),
            "byte_fallback": (35, kinds.TYPE_BOOL, "false"),
        },
        "NormalizerSpec": {
            "name": (1, kinds.TYPE_STRING, ""),
            "precompiled_charsmap": (2, kinds.TYPE_BYTES, ""),
            "add_dummy_prefix": (3, kinds.TYPE_BOOL, "true"),
            "remove_extra_whitespaces": (4, kinds.TYPE_BOOL, "true"),
            "escape_whitespaces": (5, kinds.TYPE_BOOL, "true"),
            "normalization_rule_tsv": (6, kinds.TYPE_STRING, ""),
        },
    }
    file = descriptor_pb2.FileDescriptorProto(name="jaxgpt_model.proto", package="jaxgpt")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field, (number, type, default) in fields.items():
            message.field.add(
                name=field,
                number=number,
                type=type,
                default_value=default,
                label=kinds.LABEL_OPTIONAL,
            )
    model = file.message_type.add(name="Model")
    for field, number, name, label in (
        ("pieces", 1, "Piece", kinds.LABEL_REPEATED),
        ("trainer_spec", 2, "TrainerSpec", kinds.LABEL_OPTIONAL),
        ("normalizer_spec", 3, "NormalizerSpec", kinds.LABEL_OPTIONAL),
    ):
        model.field.add(
            name=field,
            number=number,
            type=kinds.TYPE_MESSAGE,
            type_name=f".jaxgpt.{name}",
            label=label,
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("jaxgpt.Model"))


Model: Any = _model_class()


def parse_model(model: bytes) -> Any:
    """Parse a serialised model and check that it keeps text as it is.

    Raises:
        MismatchError: it is no model, normalises text, cannot spell every byte, or has no control
            tokens that are safe from text.
    """
    try:
        proto = Model.FromString(model)
    except (DecodeError, UnicodeDecodeError) as error:
        raise MismatchError(f"not a SentencePiece model: {one_line(error, 200)}") from None
    if not all(isinstance(piece.piece, str) for piece in proto.pieces):
        # Protobuf hands out as bytes what is not UTF-8.
        raise MismatchError("not a SentencePiece model: a piece is not UTF-8")
    normalizer = proto.normalizer_spec
    pieces = {piece.piece: piece.type for piece in proto.pieces}
    byte_pieces = {piece for piece, type in pieces.items() if type == PieceType.BYTE}
    problem = None
    if not pieces:
        problem = "it has no pieces"
    elif proto.trainer_spec.model_type not in KINDS:
        problem = "it cuts text into words"
    elif normalizer.precompiled_charsmap or normalizer.normalization_rule_tsv:
        problem = f"it normalises text ({normalizer.name})"
    elif normalizer.add_dummy_prefix or normalizer.remove_extra_whitespaces:
        problem = "it adds or removes spaces"
    elif not normalizer.escape_whitespaces or proto.trainer_spec.treat_whitespace_as_suffix:
        problem = "it writes spaces in another way"
    elif not proto.trainer_spec.byte_fallback or byte_pieces != {
        f"<0x{byte:02X}>" for byte in range(256)
    }:
        problem = "it has no byte fallback"
    elif absent := [piece for piece in CONTROL_PIECES.values() if piece not in pieces]:
        problem = f"it lacks {', '.join(absent)}"
    elif any(
        pieces[piece] != (PieceType.UNKNOWN if name == "unk" else PieceType.CONTROL)
        for name, piece in CONTROL_PIECES.items()
    ):
        problem = "its control tokens can be written in text"
    if problem:
        raise MismatchError(
            f"not a tokenizer of jaxgpt: {problem}; train one with tools/train_tokenizer.py"
        )
    return proto


def bytes_of(piece: Any) -> bytes:
    """Return the bytes of text that a piece stands for; none for a control token."""
    if piece.type == PieceType.BYTE:
        return bytes([int(piece.piece[3:5], 16)])
    if piece.type in (PieceType.CONTROL, PieceType.UNKNOWN, PieceType.UNUSED):
        return b""
    return piece.piece.replace(SPACE_SYMBOL, " ").encode()


def texts_inside(proto: Any) -> list[bytes]:
    """Return the text of every piece that encoding may pass through, even if it is not output."""
    kinds = (PieceType.NORMAL, PieceType.USER_DEFINED, PieceType.UNUSED)
    return [
        piece.piece.replace(SPACE_SYMBOL, " ").encode()
        for piece in proto.pieces
        if piece.type in kinds
    ]


def fingerprint_of(proto: Any) -> str:
    """SHA-256, in hexadecimal, of what decides ids, and of nothing else in the file."""
    digest = hashlib.sha256(b"jaxgpt tokenizer, version 1\n")
    digest.update(KINDS[proto.trainer_spec.model_type].encode())
    for piece in proto.pieces:
        text = piece.piece.encode()
        digest.update(struct.pack("<IfB", len(text), piece.score, piece.type) + text)
    return digest.hexdigest()
