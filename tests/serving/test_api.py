"""The HTTP API as clients use it: the official one drives it, and errors keep its shape."""

import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

from jaxgpt.config import replace
from jaxgpt.inference.sampling import SamplingConfig
from jaxgpt.inference.text_generation import HealedPrompt, continue_texts, encode_prompt
from jaxgpt.serving import event_stream
from tests.serving.served import CONFIG, Served, httpx, make_params, openai

CHAT = [{"role": "user", "content": "the small cat"}]


def test_models_are_listed_with_what_clients_ask_for(served: Served) -> None:
    model = served.client.models.list().data[0]
    assert (model.id, model.created, model.owned_by) == ("tiny", 7, "jaxgpt")
    assert served.client.models.retrieve("gpt-4o").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="those that are served are 'tiny', 'terse'"):
        served.client.models.retrieve("other")


def test_a_completion_continues_the_ids_as_the_decoder_does(served: Served) -> None:
    ids = [served.tokenizer.bos_id, *served.tokenizer.encode("the small cat finds")]
    expected: list[int] = []
    for (new,) in served.decoder.generate([ids], 12, SamplingConfig(temperature=0.0)):
        expected += new.ids
    options: dict[str, Any] = {"model": "tiny", "max_tokens": 12, "temperature": 0}
    by_text = served.client.completions.create(prompt="the small cat finds", **options)
    by_ids = served.client.completions.create(prompt=ids, **options)
    assert by_text.choices[0].text == served.tokenizer.decode(expected)
    assert by_ids.choices[0].text == by_text.choices[0].text
    assert by_text.usage.prompt_tokens == len(ids)
    assert by_text.usage.completion_tokens == len(expected)
    several = served.client.completions.create(prompt=[ids, ids[:3]], n=2, **options)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert several.choices[1].text == by_text.choices[0].text
    echoed = served.client.completions.create(prompt="the small cat finds", echo=True, **options)
    assert echoed.choices[0].text == "the small cat finds" + by_text.choices[0].text


def test_a_prompt_is_scored_as_harnesses_ask_for_it(served: Served) -> None:
    ids = [served.tokenizer.bos_id, *served.tokenizer.encode("one quick dog sees every bird")]
    answer = served.client.completions.create(
        model="tiny", prompt=ids, max_tokens=0, echo=True, logprobs=2
    )
    found = answer.choices[0].logprobs
    model = CONFIG.build(served.tokenizer.vocab_size)
    logits, _ = model.apply({"params": make_params(served.tokenizer.vocab_size)}, np.array([ids]))  # type: ignore[misc]
    expected = np.asarray(jax.nn.log_softmax(logits[0]))[np.arange(len(ids) - 1), ids[1:]]
    assert found.token_logprobs[0] is None
    np.testing.assert_allclose(found.token_logprobs[1:], expected, atol=1e-4)
    assert "".join(found.tokens[1:]) == "one quick dog sees every bird"
    assert found.top_logprobs[0] is None
    assert all(len(top) in (1, 2) for top in found.top_logprobs[1:])


def test_a_scored_text_has_its_own_tokens_and_the_one_that_ends_it(served: Served) -> None:
    # A harness counts on one token after those of its text, also if that one is the end.
    text, end = "one quick dog", str(served.tokenizer.eos_id)
    options: dict[str, Any] = {"model": "tiny", "echo": True, "logprobs": 1, "max_tokens": 1}
    by_text = served.client.completions.create(prompt=text, logit_bias={end: 100}, **options)
    found = by_text.choices[0].logprobs
    assert found.tokens == [*map(served.tokenizer.decode, _each(served, text)), "</s>"]
    assert (by_text.choices[0].text, by_text.choices[0].finish_reason) == (text, "stop")
    assert by_text.usage.completion_tokens == 0
    ids = [served.tokenizer.bos_id, *served.tokenizer.encode(text)]
    by_ids = served.client.completions.create(prompt=ids, logit_bias={end: 100}, **options)
    assert by_ids.choices[0].logprobs.token_logprobs == [None, *found.token_logprobs]
    assert by_ids.choices[0].logprobs.text_offset == [0, *found.text_offset]


def _each(served: Served, text: str) -> list[list[int]]:
    return [[id] for id in served.tokenizer.encode(text)]


@pytest.mark.parametrize("n", [1, 2])
def test_a_stream_is_the_whole_answer_in_parts(served: Served, n: int) -> None:
    options: dict[str, Any] = {
        "model": "tiny",
        "messages": CHAT,
        "max_completion_tokens": 20,
        "seed": 11,
        "n": n,
        "logprobs": True,
        "top_logprobs": 3,
    }
    whole = served.client.chat.completions.create(**options)
    texts, tokens, ends = [""] * n, [0] * n, [""] * n
    for chunk in served.client.chat.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            tokens[choice.index] += len(choice.logprobs.content) if choice.logprobs else 0
            ends[choice.index] += choice.finish_reason or ""
        usage = chunk.usage
    assert texts == [choice.message.content for choice in whole.choices]
    assert ends == [choice.finish_reason for choice in whole.choices]
    assert tokens == [len(choice.logprobs.content) for choice in whole.choices]
    assert usage.completion_tokens == whole.usage.completion_tokens == sum(tokens)
    assert n == 1 or texts[0] != texts[1]
    for token in whole.choices[0].logprobs.content:
        assert math.exp(token.logprob) <= 1
        assert len(token.top_logprobs) == 3
        assert bytes(token.bytes).decode("utf-8", "replace") == token.token


def test_a_silent_stream_is_kept_open_and_its_last_chunk_has_the_times(
    served: Served, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "PING_SECONDS", 0.02)
    gate.close(steps=0)
    body = {"messages": CHAT, "max_tokens": 3, "stream": True, "ignore_eos": True}
    url = f"{served.url}/v1/chat/completions"
    options = {"stream_options": {"include_usage": True}}
    with httpx.stream("POST", url, json={**body, **options}, timeout=60) as answer:
        lines = []
        for line in answer.iter_lines():
            lines.append(line)
            if line == ": ping":
                gate.open()
    assert ": ping" in lines
    assert lines[-2] == "data: [DONE]"
    timings = json.loads(lines[-4][6:])["timings"]
    assert timings["predicted_n"] == 3
    assert timings["draft_n"] == timings["draft_n_accepted"] == 0
    assert timings["prompt_n"] > 0
    assert timings["prompt_ms"] > 0
    assert timings["predicted_ms"] >= 0


def test_the_helper_of_the_official_client_follows_a_stream(served: Served) -> None:
    # An answer that ends by itself: the helper raises where one is cut off.
    with served.client.chat.completions.stream(
        model="tiny",
        messages=CHAT,
        temperature=0,
        logit_bias={str(served.tokenizer.eos_id): 100},
        extra_body={"min_tokens": 4},
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content


def test_stop_strings_end_an_answer_across_tokens_and_are_not_sent(served: Served) -> None:
    options: dict[str, Any] = {"model": "tiny", "prompt": "the", "max_tokens": 40, "seed": 5}
    free = served.client.completions.create(**options).choices[0].text
    stop = free[6:9]
    for stream in (False, True):
        answer = served.client.completions.create(**options, stop=["never", stop], stream=stream)
        chunks = list(answer) if stream else [answer]
        assert "".join(chunk.choices[0].text for chunk in chunks) == free[: free.index(stop)]
        assert chunks[-1].choices[0].finish_reason == "stop"
    served.wait_until_idle()


def test_biases_and_other_sampling_reach_the_draw(served: Served) -> None:
    token = served.tokenizer.encode(" cat")[-1]
    answer = served.client.chat.completions.create(
        model="tiny",
        messages=CHAT,
        max_tokens=5,
        logit_bias={str(token): 100},
        extra_body={"ignore_eos": True, "top_k": 4, "min_p": 0.1, "repetition_penalty": 1.0},
    )
    assert answer.choices[0].message.content == served.tokenizer.decode([token] * 5)
    assert answer.choices[0].finish_reason == "length"


def test_dry_and_xtc_reach_the_draw(served: Served) -> None:
    token = served.tokenizer.encode(" cat")[-1]
    options: dict[str, Any] = {
        "prompt": "the small dog", "max_tokens": 6, "temperature": 1e-3, "ignore_eos": True,
        "logit_bias": {str(token): 60},
    }  # fmt: skip

    def write(**fields: Any) -> str:
        return served.post("/v1/completions", {**options, **fields}).json()["choices"][0]["text"]

    free = served.tokenizer.decode([token] * 6)
    assert write() == free
    # Two of them are no repetition yet, the third goes on with one.
    dry = {"dry_multiplier": 100, "dry_allowed_length": 1, "dry_base": 1}
    assert write(**dry).startswith(served.tokenizer.decode([token] * 2))
    assert write(**dry) != free
    for fields in ({"dry_penalty_last_n": 0}, {"dry_sequence_breakers": [" cat", "cat"]}):
        assert write(**dry, **fields) == free
    everything = {"temperature": 1, "logit_bias": {}, "xtc_threshold": 0, "seed": 3}
    assert write(**everything, xtc_probability=1) != write(**everything)
    assert write(**everything, xtc_probability=0) == write(**everything)


@pytest.mark.optimized
def test_generate_draws_what_the_server_draws_with_the_same_settings(served: Served) -> None:
    settings: dict[str, Any] = {
        "temperature": 0.3, "repetition_penalty": 0.01, "dry_multiplier": 9.0, "dry_base": 1.5,
        "dry_allowed_length": 1, "dry_sequence_breakers": [" small"], "xtc_probability": 0.1,
        "xtc_threshold": 0.0,
    }  # fmt: skip
    body = {"prompt": "the small dog the small", "max_tokens": 60, "seed": 3, **settings}
    answer = served.post("/v1/completions", body).json()["choices"][0]["text"]
    sampling = SamplingConfig(**{**settings, "dry_sequence_breakers": (" small",)})
    prompt = HealedPrompt(encode_prompt(served.tokenizer, "the small dog the small"), b"", 0)

    def write(sampling: SamplingConfig) -> str:
        (text,) = continue_texts(served.decoder, served.tokenizer, [prompt], 60, sampling, seed=3)
        return text

    assert write(sampling) == answer
    # Each of the settings has a part in it.
    assert write(replace(sampling, dry_sequence_breakers=())) != answer
    assert write(replace(sampling, xtc_probability=0.0)) != answer


def test_an_answer_has_the_form_that_is_asked_for(served: Served) -> None:
    schema = {
        "type": "object",
        "properties": {"big": {"type": "boolean"}, "kind": {"enum": ["cat", "dog"]}},
        "required": ["big", "kind"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "animal", "schema": schema}}
    for seed in range(3):
        answer = served.client.chat.completions.create(
            model="tiny", messages=CHAT, seed=seed, response_format=form, temperature=2
        )
        found = json.loads(answer.choices[0].message.content)
        assert set(found) == {"big", "kind"}
        assert answer.choices[0].finish_reason == "stop"
    for outputs, allowed in (
        ({"regex": "[ab]{3}"}, {"".join(x) for x in _triples()}),
        ({"choice": ["yes", 'n"o']}, {"yes", 'n"o'}),
        ({"grammar": 'start: "x" "y"'}, {"xy"}),
    ):
        answer = served.client.chat.completions.create(
            model="tiny", messages=CHAT, extra_body={"structured_outputs": outputs}
        )
        assert answer.choices[0].message.content in allowed
    wrong = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}
    with pytest.raises(openai.BadRequestError, match="not"):
        served.client.chat.completions.create(model="tiny", messages=CHAT, response_format=wrong)


def _triples() -> Iterator[tuple[str, str, str]]:
    return ((a, b, c) for a in "ab" for b in "ab" for c in "ab")


def test_texts_become_ids_and_come_back(served: Served) -> None:
    text = "a small <|end|> cat\n"
    found = served.post("/tokenize", {"prompt": text}).json()
    assert found["tokens"] == [served.tokenizer.bos_id, *served.tokenizer.encode(text)]
    assert served.post("/detokenize", {"tokens": found["tokens"][1:]}).json() == {"prompt": text}
    for path, given in (("tokenize", {"prompt": text}), ("detokenize", {"tokens": [3]})):
        assert served.post(f"/{path}", {**given, "model": "terse"}).status_code == 200
        assert served.post(f"/{path}", {**given, "model": "x"}).status_code == 404
    tool = {"type": "function", "function": {"name": "f"}}
    twice = {"messages": CHAT, "tools": [tool, tool]}
    assert "two tools have one name" in served.post("/tokenize", twice).text
    # What is typed never becomes a control token.
    chat = served.post("/tokenize", {"messages": [{"role": "user", "content": text}]}).json()
    assert chat["tokens"].count(served.tokenizer.special_ids["end"]) == 1


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("chat/completions", b'{"messages": [], "temperature": NaN}', 400, "temperature"),
        ("chat/completions", {"messages": CHAT, "temperature": math.nan}, 400, "temperature"),
        ("chat/completions", {"messages": CHAT, "temperature": 3}, 400, "temperature"),
        ("chat/completions", {"messages": CHAT, "n": "3"}, 400, "n: "),
        ("chat/completions", {"messages": CHAT, "seed": 1.5}, 400, "seed"),
        ("chat/completions", {"messages": CHAT, "stop": ""}, 400, "must not be empty"),
        ("chat/completions", {"messages": CHAT, "model": "x"}, 404, "no such model"),
        ("chat/completions", {"messages": CHAT * 2}, 400, "'assistant' is due"),
        ("chat/completions", {"messages": [{"role": "x", "content": ""}]}, 400, "messages: "),
        ("chat/completions", {"messages": CHAT, "logit_bias": {"a": 1}}, 400, "logit_bias"),
        (
            "chat/completions",
            b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
            400,
            "surrogate",
        ),
        ("completions", {"prompt": "the " * 400}, 400, "the context holds 300"),
        ("completions", {"prompt": []}, 400, "prompt"),
        ("completions", {"prompt": [999_999]}, 400, "the model has ids from 0"),
        ("completions", {"prompt": [999_999], "stream": True}, 400, "the model has ids from 0"),
        ("completions", {"prompt": "a", "top_k": 1 << 31}, 400, "top_k"),
        ("completions", {"prompt": "a", "min_tokens": 1 << 31}, 400, "min_tokens"),
        ("completions", {"prompt": "a", "temperature": "0.5"}, 400, "temperature"),
        ("completions", {"prompt": "a", "dry_base": 0.5}, 400, "dry_base"),
        (
            "completions",
            b'{"prompt": "a", "dry_sequence_breakers": ["\\ud800"]}',
            400,
            "dry_sequence_breakers: ",
        ),
        ("completions", {"prompt": "a", "xtc_probability": 1.5}, 400, "xtc_probability"),
        ("completions", {"prompt": "<s>a", "echo": True, "logprobs": 1}, 400, "begins with '<s>'"),
        ("completions", {"prompt": "a", "stream": "yes"}, 400, "stream"),
        ("completions", {"prompt": "a", "top_p": 1e-50}, 400, "top_p"),
        ("completions", {"prompt": "a", "logit_bias": {"secret": "x"}}, 400, "logit_bias: "),
        ("chat/completions", {"messages": [{"role": "user", "content": "a" * 90_000}]}, 400, "fit"),
        ("completions", {"prompt": "a", "max_tokens": 0}, 400, "max_tokens is 0"),
        (
            "completions",
            {
                "prompt": "a",
                "response_format": {"type": "json_object"},
                "structured_outputs": {"regex": "a"},
            },
            400,
            "give one of them",
        ),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": "a"}], "max_tokens": 0},
            400,
            "max_tokens: Input should be greater than or equal to 1",
        ),
        ("completions", b"{", 400, "JSON"),
        ("completions", b"\xff\xfe", 400, ""),
        ("completions", b"[1e999]", 400, ""),
        ("nowhere", {}, 404, "Not Found"),
    ],
)
def test_a_wrong_request_is_refused_in_the_shape_that_clients_read(
    served: Served, path: str, body: Any, status: int, message: str
) -> None:
    answer = served.post(f"/v1/{path}", body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert message in error["message"]
    assert "Traceback" not in answer.text
    assert "secret" not in answer.text
    assert ".py" not in answer.text


def test_a_body_that_is_too_large_is_refused_with_and_without_its_length(served: Served) -> None:
    body = json.dumps({"prompt": "a" * 200_000}).encode()
    assert served.post("/v1/completions", body).status_code == 413

    def parts() -> Iterator[bytes]:
        for start in range(0, len(body), 10_000):
            yield body[start : start + 10_000]

    answer = httpx.post(f"{served.url}/v1/completions", content=parts(), timeout=60)
    assert answer.status_code == 413
    assert "larger than 100000 bytes" in answer.json()["error"]["message"]


def test_a_client_that_leaves_frees_its_slot(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So slow that no answer ends by itself.
    step = served.engine.step
    monkeypatch.setattr(served.engine, "step", lambda: (time.sleep(0.05), step())[1])
    url = f"{served.url}/v1/completions"
    body = {"prompt": "the", "max_tokens": 290, "ignore_eos": True, "stream": True}

    def cancelled() -> int:
        return served.engine.counts().finished.get("cancelled", 0)

    before = cancelled()
    with httpx.stream("POST", url, json=body, timeout=60) as answer:
        next(answer.iter_lines())
    served.wait_until_idle()
    assert cancelled() == before + 1
    with socket.create_connection(served.server._listening.getsockname()) as connection:
        content = json.dumps({**body, "stream": False}).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
        connection.sendall(f"{head}\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
        while not served.engine.counts().running:
            time.sleep(0.01)
    served.wait_until_idle()
    assert cancelled() == before + 2


def test_a_full_queue_refuses_streams_as_it_does_others(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served.engine, "step", lambda: False)
    body = {"prompt": "the", "n": 7, "stream": True}
    with httpx.stream("POST", f"{served.url}/v1/completions", json=body, timeout=60) as answer:
        assert answer.status_code == 200
        for stream in (False, True):
            refused = served.post("/v1/completions", {**body, "n": 1, "stream": stream})
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "1"
        monkeypatch.undo()
    served.wait_until_idle()


def test_operators_find_their_numbers(served: Served) -> None:
    served.client.completions.create(model="tiny", prompt="the cat", max_tokens=3)
    assert httpx.get(f"{served.url}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{served.url}/readyz").status_code == 200
    text = httpx.get(f"{served.url}/metrics").text
    for name in (
        "num_requests_running",
        "kv_cache_usage_perc",
        "generation_tokens_total",
        "prefix_cache_hits_total",
        "spec_decode_num_drafts_total",
        "spec_decode_num_draft_tokens_total",
        "spec_decode_num_accepted_tokens_total",
        "request_success_total",
        "time_to_first_token_seconds_bucket",
        "inter_token_latency_seconds_count",
    ):
        assert f"jaxgpt_{name}{{" in text, name


def test_a_request_that_nothing_may_answer_ends_alone(served: Served) -> None:
    everything = {str(token): -100 for token in range(served.tokenizer.vocab_size)}
    with pytest.raises(openai.BadRequestError, match="no token may be drawn"):
        served.client.completions.create(model="tiny", prompt="the", logit_bias=everything)
    assert served.client.completions.create(model="tiny", prompt="the").choices[0].text


def test_many_clients_get_what_each_would_get_alone(served: Served) -> None:
    def ask(seed: int) -> str:
        client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=8)
        messages = [{"role": "user", "content": "the small cat " * (seed % 4 + 1)}]
        answer = client.chat.completions.create(
            model="tiny", messages=messages, seed=seed, max_tokens=4 + seed % 9
        )
        return answer.choices[0].message.content

    alone = [ask(seed) for seed in range(10)]
    together: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: together.update({seed: ask(seed)}))
        for seed in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[seed] for seed in range(10)] == alone
    served.wait_until_idle()
