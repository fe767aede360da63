"""A server in a thread of this process, over a small model with random weights."""

import functools
import json
import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from jaxgpt.inference.engine import DecoderAdapter, Engine, EngineConfig
from jaxgpt.inference.text_generation import make_text_decoder
from jaxgpt.model.adapted import split
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layers.adapters import Lora
from jaxgpt.model.layers.projection import Initialization
from jaxgpt.model.stacked_adapters import TrainedAdapter
from jaxgpt.tokenizer.tokenizer import Tokenizer

# Where one is missing, files of tests that import this one are skipped.
for package in ("fastapi", "uvicorn", "prometheus_client", "llguidance"):
    pytest.importorskip(package, reason="needs: pip install -e '.[serve]'")
openai = pytest.importorskip("openai", reason="needs: pip install -e '.[dev]'")
httpx = pytest.importorskip("httpx", reason="needs: pip install -e '.[dev]'")

from jaxgpt.serving.launch import Listening, ServedFacts, make_server  # noqa: E402
from jaxgpt.serving.options import listen  # noqa: E402
from jaxgpt.serving.server import Server, warm_up  # noqa: E402

CONTEXT = 300
CONFIG = GptConfig(
    num_layers=1,
    d_model=32,
    attention=GroupedQueryAttention(num_heads=2),
    initialization=Initialization(std=0.3),
)
ADAPTER = Lora(rank=2, alpha=4.0)


class Served:
    """A server in a thread of this process; the model "terse" is "tiny" with an adapter."""

    def __init__(self, tokenizer: Tokenizer, **listening: Any) -> None:
        model = CONFIG.build(tokenizer.vocab_size)
        params = make_params(tokenizer.vocab_size)
        self.tokenizer = tokenizer
        self.decoder = make_text_decoder(model, params, tokenizer, CONTEXT)
        size = EngineConfig(num_slots=3, prefill_chunk=16, max_waiting=4)
        trained = TrainedAdapter(ADAPTER, make_own(tokenizer.vocab_size))
        ids = self.decoder.stop_ids, self.decoder.forbidden_ids
        self.engine = Engine(self.decoder, size, [DecoderAdapter(trained, *ids)])
        settings: dict[str, Any] = {
            "host": "127.0.0.1",
            "socket": listen("127.0.0.1", 0),
            "api_keys": (),
            "cors_origins": (),
            "max_body_bytes": 100_000,
            "answer_seconds": 60.0,
            "grace_seconds": 5.0,
        }
        bound = threading.Event()
        urls: list[str] = []

        def announce(url: str) -> None:
            urls.append(url)
            bound.set()

        meta = {"n_vocab": tokenizer.vocab_size, "prompt_form": "chat template"}
        self.server: Server = make_server(
            [
                ServedFacts(
                    name=name,
                    aliases=aliases,
                    stop_id=tokenizer.eos_id,
                    created=7,
                    meta=meta,
                )
                for name, aliases in (("tiny", ("gpt-4o",)), ("terse", ()))
            ],
            self.engine,
            tokenizer,
            Listening(**(settings | listening)),
            announce,
        )
        warm_up(self.engine, tokenizer.bos_id)
        target = self.server.serve_until_stopped
        self.thread = threading.Thread(target=target, daemon=True)
        self.thread.start()
        assert bound.wait(60)
        self.url = urls[0]
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0)

    def post(self, path: str, body: Any) -> Any:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        return httpx.post(self.url + path, content=content, headers=headers, timeout=60)

    def wait_until_idle(self) -> None:
        deadline = time.monotonic() + 60
        while self.engine.counts().running or self.engine.counts().waiting:
            assert time.monotonic() < deadline, self.engine.counts()
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(60)
        assert not self.thread.is_alive()


@functools.cache
def make_own(vocab_size: int) -> Any:
    """Return parameters of the adapter that change what is drawn."""
    model = CONFIG.build(vocab_size, ADAPTER)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    own, _ = split(meta.unbox(shapes["params"]), ADAPTER.is_trainable)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32), own)


@functools.cache
def make_params(vocab_size: int) -> Any:
    """Return random parameters of the model."""
    model = CONFIG.build(vocab_size)
    tokens = jnp.zeros((1, 4), jnp.int32)
    return meta.unbox(model.init(jax.random.key(3), tokens)["params"])
