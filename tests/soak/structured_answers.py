"""Soak: answers of a given form follow their JSON schema, whatever the model.

    python -m tests.soak.structured_answers [--num-answers N] [--seed N]

A model with random weights, which has no idea of JSON, answers under three schemas with strings of
bounded length; one of them is recursive. Each answer that ends by itself must be valid (judged by
the package jsonschema); those that end for length are counted apart. Prints the counts and what a
token costs with and without the form; exits with 1 if an answer is not valid.
"""

import argparse
import functools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import jsonschema

from jaxgpt.inference.engine import Engine, EngineConfig, Request, RequestSampling, TokenConstraint
from jaxgpt.inference.engine.forms.grammar import Grammars
from jaxgpt.inference.text_generation import make_text_decoder
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.parallel.mesh import MeshConfig, make_mesh
from jaxgpt.parallel.sharding import ShardingRules
from jaxgpt.tokenizer.training import TokenizerConfig, train_tokenizer
from jaxgpt.training.state import init_parameters
from tests.tiny import REPOSITORY

NUM_SLOTS = 16
MOST_TOKENS = 400
CONTEXT = 512

SHORT = {"type": "string", "maxLength": 12}
SCHEMAS: dict[str, Any] = {
    "person": {
        "type": "object",
        "properties": {
            "name": SHORT,
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "kind": {"enum": ["student", "engineer", "other"]},
        },
        "required": ["name", "age", "kind"],
        "additionalProperties": False,
    },
    "orders": {
        "type": "array",
        "minItems": 1,
        "maxItems": 4,
        "items": {
            "type": "object",
            "properties": {
                "item": {"anyOf": [SHORT, {"type": "null"}]},
                "price": {"type": "number", "minimum": 0, "maximum": 999},
                "paid": {"type": "boolean"},
            },
            "required": ["item", "price"],
            "additionalProperties": False,
        },
    },
    "tree": {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "label": SHORT,
                    "children": {
                        "type": "array", "maxItems": 2, "items": {"$ref": "#/$defs/node"}
                    },
                },
                "required": ["label"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/node",
    },
}  # fmt: skip


def main() -> int:
    """Draw the answers and judge them."""
    parser = argparse.ArgumentParser(description="Answers of a given form")
    parser.add_argument("--num-answers", type=int, default=500, help="answers to each schema")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pages = [path.read_text() for path in sorted((REPOSITORY / "docs").glob("*.md"))]
    tokenizer = train_tokenizer(pages, TokenizerConfig(vocab_size=4096))
    model = GptConfig(
        num_layers=2, d_model=128, attention=GroupedQueryAttention(num_heads=2)
    ).build(tokenizer.vocab_size)
    params = init_parameters(model, ShardingRules(), make_mesh(MeshConfig()), options.seed)
    decoder = make_text_decoder(model, params, tokenizer, CONTEXT)
    engine = Engine(decoder, EngineConfig(num_slots=NUM_SLOTS, max_length=CONTEXT))
    grammars = Grammars(tokenizer, tokenizer.eos_id)
    all_valid = True
    for name, schema in SCHEMAS.items():
        constraints = grammars.constraints(grammars.json_schema(schema), options.num_answers)
        answers, seconds_formed = draw(engine, tokenizer.bos_id, constraints)
        valid = wrong = unfinished = 0
        for tokens, finish in answers:
            if finish == "length":
                unfinished += 1
            elif is_valid(tokenizer.decode(tokens), schema):
                valid += 1
            else:
                wrong += 1
                print("NOT VALID", name, repr(tokenizer.decode(tokens)))
        all_valid &= not wrong
        print(f"{name}: {valid} valid, {wrong} not, {unfinished} ended for length", flush=True)
        _, seconds = draw(engine, tokenizer.bos_id, [None] * NUM_SLOTS)
        print(
            f"  a token in all {NUM_SLOTS} slots: {seconds_formed * 1e3:.2f} ms, "
            f"without a form {seconds * 1e3:.2f} ms",
            flush=True,
        )
    return 0 if all_valid else 1


def draw(
    engine: Engine, bos_id: int, constraints: Sequence[TokenConstraint | None]
) -> tuple[list[tuple[list[int], str]], float]:
    """Return the tokens of each answer and why it ended, and the median seconds of a step."""
    answers: list[tuple[list[int], str]] = [([], "") for _ in constraints]

    def take(number: int, progress: Any) -> None:
        tokens, _ = answers[number]
        tokens += [score.id for score in progress.tokens]
        if progress.finish is not None:
            answers[number] = tokens, progress.finish

    times = []
    waiting = list(enumerate(constraints))
    while waiting or engine.counts().running or engine.counts().waiting:
        while waiting and engine.counts().waiting < NUM_SLOTS:
            number, constraint = waiting.pop()
            request = Request(
                prompt=(bos_id,),
                max_new_tokens=MOST_TOKENS,
                sampling=RequestSampling(temperature=1.0),
                seed=number,
                constraint=constraint,
            )
            engine.submit(request, functools.partial(take, number))
        began, drawn = time.perf_counter(), engine.counts().drawn_tokens
        engine.step()
        drawn = engine.counts().drawn_tokens - drawn
        if drawn:
            times.append((time.perf_counter() - began) * NUM_SLOTS / drawn)
    return answers, statistics.median(times)


def is_valid(text: str, schema: Any) -> bool:
    """Return whether a text is JSON that the schema allows."""
    try:
        jsonschema.validate(json.loads(text), schema)
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
