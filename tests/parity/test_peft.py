"""An adapted projection computes and learns what PEFT's does on equal weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.model.layers.adapters import Dora, Lora
from jaxgpt.model.layers.projection import Projection
from tests.model.tiny_model import PLAIN

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft", reason="needs PEFT: pip install peft")

INPUTS, HEADS, HEAD_DIM = 6, 2, 4
ADAPTERS = {
    "lora": Lora(rank=3, alpha=5.0),
    "rslora": Lora(rank=3, alpha=5.0, rank_stabilized=True),
    "dora": Dora(rank=3, alpha=5.0),
}


class _Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query = torch.nn.Linear(INPUTS, HEADS * HEAD_DIM)

    def forward(self, x):
        return self.query(x)


@pytest.mark.slow  # PEFT imports transformers: 10 CPU seconds.
@pytest.mark.parametrize("name", ADAPTERS)
def test_outputs_and_gradients_are_those_of_peft(name: str) -> None:
    adapter, rng = ADAPTERS[name], np.random.default_rng(0)
    x, dy = rng.standard_normal((5, INPUTS)), rng.standard_normal((5, HEADS, HEAD_DIM))
    settings = dataclasses.replace(PLAIN.settings, adapter=adapter)
    axes = ("embed", "heads", "head_dim")
    init = settings.kernel_init
    layer = Projection((INPUTS,), (HEADS, HEAD_DIM), axes, settings, init, True, name="query")
    shapes = {"kernel": (INPUTS, HEADS, HEAD_DIM), "bias": (HEADS, HEAD_DIM)}
    shapes |= {"lora_a": (INPUTS, 3), "lora_b": (3, HEADS, HEAD_DIM)}
    shapes |= {"magnitude_change": (HEADS, HEAD_DIM)} if name == "dora" else {}
    params = {key: rng.standard_normal(shape) for key, shape in shapes.items()}
    params, x, dy = jax.tree.map(jnp.float32, (params, x, dy))

    def objective(params, x):
        y = layer.apply({"params": params}, x)
        return jnp.sum(y * dy), y

    (_, y), (ours, dx) = jax.value_and_grad(objective, (0, 1), has_aux=True)(params, x)

    config = peft.LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        use_rslora=adapter.rank_stabilized,
        use_dora=name == "dora",
        target_modules=["query"],
    )
    theirs = peft.get_peft_model(_Model(), config)
    linear = theirs.base_model.model.query
    of_theirs = {
        "lora_a": linear.lora_A.default.weight,
        "lora_b": linear.lora_B.default.weight,
    }
    flat = {key: np.asarray(leaf).reshape(len(leaf), -1).T for key, leaf in params.items()}
    weights = {key: flat[key] for key in of_theirs}
    linear.base_layer.weight.data = torch.tensor(flat["kernel"])
    linear.base_layer.bias.data = torch.tensor(np.asarray(params["bias"]).reshape(-1))
    if name == "dora":
        of_theirs["magnitude_change"] = linear.lora_magnitude_vector.default.weight
        change = np.asarray(params["magnitude_change"]).reshape(-1)
        weights["magnitude_change"] = np.linalg.norm(flat["kernel"], axis=1) + change
    for key, weight in of_theirs.items():
        assert weight.shape == weights[key].shape
        weight.data = torch.tensor(weights[key])
    x_torch = torch.tensor(np.asarray(x), requires_grad=True)
    y_torch = theirs(x_torch)
    y_torch.backward(torch.tensor(np.asarray(dy).reshape(5, -1)))
    np.testing.assert_allclose(y.reshape(5, -1), y_torch.detach(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dx, x_torch.grad, rtol=1e-5, atol=1e-5)
    for key, weight in of_theirs.items():
        gradient = np.asarray(ours[key])
        gradient = gradient.reshape(len(gradient), -1).T if gradient.ndim > 1 else gradient
        if key == "magnitude_change":
            gradient = np.asarray(ours[key]).reshape(-1)
        np.testing.assert_allclose(gradient, weight.grad, rtol=1e-5, atol=1e-5)
