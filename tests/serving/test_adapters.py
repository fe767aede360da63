"""Adapters are models of the server: each route answers with the one that a request names."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxgpt.model.adapted import join
from tests.serving.served import ADAPTER, CONFIG, Served, make_own, make_params, openai

CHAT = [{"role": "user", "content": "the small cat"}]


def test_the_base_and_its_adapters_are_listed(served: Served) -> None:
    found = [(model.id, model.parent) for model in served.client.models.list().data]
    assert found == [("tiny", None), ("terse", "tiny")]
    assert served.client.models.retrieve("terse").id == "terse"
    with pytest.raises(openai.NotFoundError, match="those that are served are 'tiny', 'terse'"):
        served.client.completions.create(model="other", prompt="the")


def test_scores_are_those_of_the_named_model(served: Served) -> None:
    tokenizer = served.tokenizer
    ids = [tokenizer.bos_id, *tokenizer.encode("one quick dog sees every bird")]
    base = make_params(tokenizer.vocab_size)
    whole = {"tiny": base, "terse": join(base, make_own(tokenizer.vocab_size))}
    found = {}
    for name, params in whole.items():
        answer = served.client.completions.create(
            model=name, prompt=ids, max_tokens=0, echo=True, logprobs=0
        )
        model = CONFIG.build(tokenizer.vocab_size, *([ADAPTER] if name == "terse" else []))
        logits, _ = model.apply({"params": params}, np.array([ids]))  # type: ignore[misc]
        expected = np.asarray(jax.nn.log_softmax(logits[0]))[np.arange(len(ids) - 1), ids[1:]]
        found[name] = answer.choices[0].logprobs.token_logprobs[1:]
        np.testing.assert_allclose(found[name], expected, atol=1e-4)
        assert answer.model == name
    assert np.abs(np.subtract(found["tiny"], found["terse"])).max() > 0.1


def test_all_routes_answer_with_the_named_model(served: Served) -> None:
    client, texts = served.client, {}
    ids = served.post("/tokenize", {"messages": CHAT}).json()["tokens"]
    for name in ("terse", "tiny"):
        about: dict[str, Any] = {"model": name, "temperature": 0}
        written = client.completions.create(prompt=ids, max_tokens=9, **about)
        answers = [
            client.chat.completions.create(messages=CHAT, max_tokens=9, **about),
            client.responses.create(input=CHAT, max_output_tokens=9, **about),
        ]
        chunks = [
            *client.chat.completions.create(messages=CHAT, max_tokens=9, stream=True, **about)
        ]
        texts[name] = written.choices[0].text
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert [answers[0].choices[0].message.content, answers[1].output_text, streamed] == (
            [texts[name]] * 3
        )
        assert {each.model for each in (written, *answers, *chunks)} == {name}
    assert texts["terse"] != texts["tiny"]
