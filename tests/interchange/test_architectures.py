"""Models that newcomers train can leave; a field that no class has is named."""

import pytest

from jaxgpt.config import load_config, replace
from jaxgpt.errors import ConfigError
from jaxgpt.interchange.architectures import choose_architecture
from jaxgpt.model.layers.feed_forward import Relu2
from jaxgpt.runs.config import TrainConfig
from tests.tiny import REPOSITORY


def _model(name: str):
    return load_config(REPOSITORY / "configs" / f"{name}.py", TrainConfig).model


@pytest.mark.parametrize("name", ["quickstart", "small_modern", "modern"])
def test_the_models_of_newcomers_are_qwen3(name: str) -> None:
    assert choose_architecture(_model(name)).name == "Qwen3ForCausalLM"


def test_squared_relu_and_capped_logits_are_refused_by_name() -> None:
    model = _model("quickstart")
    for changed, said in {
        replace(model, feed_forward=Relu2()): "model.feed_forward is Relu2, not SwiGlu",
        replace(model, head=replace(model.head, soft_cap=15.0)): "model.head.soft_cap is 15.0",
    }.items():
        with pytest.raises(ConfigError, match=f"closest is Qwen3ForCausalLM, but {said}"):
            choose_architecture(changed)
