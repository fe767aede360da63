"""A sliding window: within the context it is the plain decoder, beyond it the rows go on."""

import jax
import jax.numpy as jnp
import pytest
from flax.core import meta

from jaxgpt.inference.decode import Decoder
from jaxgpt.inference.decoding_weights import cast_weights, lay_out
from jaxgpt.inference.sampling import SamplingConfig
from jaxgpt.inference.sliding import SlidingDecoder
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layers.positions import Learned

CONTEXT = 16
HOT = SamplingConfig(temperature=2.0)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    config = GptConfig(
        num_layers=1,
        d_model=16,
        attention=GroupedQueryAttention(num_heads=2),
        position=Learned(max_length=CONTEXT),
    )
    model = config.build(40)
    params = meta.unbox(model.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"])
    return Decoder(
        model=model,
        params=lay_out(model, cast_weights(model, params)),
        stop_ids=(39,),
        forbidden_ids=(0,),
        context_length=CONTEXT,
        block_size=4,
    )


def collect(decoder: Decoder | SlidingDecoder, prompts: list[list[int]], limit: int) -> list:
    ids: list[list[int]] = [[] for _ in prompts]
    finish: list[list[str]] = [[] for _ in prompts]
    for news in decoder.generate(prompts, limit, HOT, 3):
        for new in news:
            assert not finish[new.row], "a finished row gains nothing"
            ids[new.row] += new.ids
            finish[new.row] += [new.finish] if new.finish else []
    return list(zip(ids, finish, strict=True))


def test_within_the_context_nothing_changes(decoder: Decoder) -> None:
    prompts = [[1, 5, 6], [1], [1, 2, 3, 4, 5, 6]]
    assert collect(SlidingDecoder(decoder), prompts, 10) == collect(decoder, prompts, 10)


def test_rows_go_on_beyond_the_positions_of_the_model(decoder: Decoder) -> None:
    prompts = [[1, 5, 6], [1], [1, *range(2, 32)]]
    found = collect(SlidingDecoder(decoder), prompts, 60)
    for ids, finish in found:
        assert len(finish) == 1
        assert len(ids) == 60 or finish == ["stop"]
    assert max(len(ids) for ids, _ in found) > CONTEXT
    assert found[0][0][:13] == collect(decoder, prompts[:1], 13)[0][0]


def test_a_constraint_holds_across_windows(decoder: Decoder) -> None:
    def alternate(row: int, ids: list[int]):
        return jnp.arange(40) == 10 + len(ids) % 2 if len(ids) < 25 else None

    prompt = [1, *range(2, 17)]
    news = SlidingDecoder(decoder).generate([prompt], 26, HOT, 3, alternate)  # type: ignore
    ids = [token for block in news for new in block for token in new.ids]
    assert ids[:25] == [10 + place % 2 for place in range(25)]
