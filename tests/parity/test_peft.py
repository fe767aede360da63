"""Adapters compute and learn what PEFT's do on equal weights, and are read and written as its."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from flax.traverse_util import unflatten_dict

from jaxgpt.config import replace
from jaxgpt.errors import ConfigError, MismatchError
from jaxgpt.model.adapted import join, split
from jaxgpt.model.layers.adapters import Dora, Lora, LowRank
from jaxgpt.model.layers.projection import Projection
from jaxgpt.model.peft_format import PeftAdapter, from_peft, to_peft
from tests.model.tiny_model import PLAIN
from tests.parity.families import FAMILIES, VOCAB_SIZE

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft", reason="needs PEFT: pip install -e '.[parity]'")
safetensors = pytest.importorskip("safetensors.numpy")

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


NAMES = {
    path.removeprefix("blocks/").removesuffix("/kernel"): source.name.removesuffix(
        ".weight"
    ).replace("*", "{layer}")
    for path, source in FAMILIES["llama3"].table.items()
    if path.startswith("blocks/") and path.endswith("/kernel")
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "adapter",
    [
        Lora(rank=3, alpha=5.0, targets=("query", "down")),
        Dora(rank=2, alpha=3.0, rank_stabilized=True),
    ],
    ids=["lora", "dora"],
)
def test_an_adapter_means_the_same_in_peft_and_comes_back(adapter: LowRank, tmp_path: Path) -> None:
    family = FAMILIES["llama3"]
    published = family.build_published()
    weights = unflatten_dict(family.map_weights(published), sep="/")
    model = family.config.build(VOCAB_SIZE, adapter)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    own, _ = split(meta.unbox(shapes), adapter.is_trainable)
    rng = np.random.default_rng(0)
    own = jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32), own)
    kernels = weights["blocks"]
    ours = to_peft(adapter, own["blocks"], kernels, NAMES, "base")
    (tmp_path / "adapter_config.json").write_text(json.dumps(ours.config))
    safetensors.save_file(ours.tensors, tmp_path / "adapter_model.safetensors")

    adapted = peft.PeftModel.from_pretrained(published, tmp_path).eval()
    tokens_BT = rng.integers(0, VOCAB_SIZE, (2, 11))
    theirs = adapted(torch.tensor(tokens_BT)).logits.detach().numpy()
    logits = model.apply({"params": join(own, weights)}, tokens_BT)[0][..., :VOCAB_SIZE]
    np.testing.assert_allclose(logits, theirs, rtol=2e-4, atol=2e-4)

    adapted.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "adapter_config.json").read_text())
    saved = PeftAdapter(
        config, safetensors.load_file(tmp_path / "saved" / "adapter_model.safetensors")
    )
    back, leaves = from_peft(saved, kernels, NAMES)
    targets = adapter.targets or [name.rpartition("/")[2] for name in NAMES]
    assert back == replace(adapter, targets=tuple(sorted(targets)))
    jax.tree.map(
        lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6),
        leaves,
        own["blocks"],
    )
    with pytest.raises(MismatchError, match=r"bias='all'"):
        from_peft(PeftAdapter(config | {"bias": "all"}, saved.tensors), kernels, NAMES)
    fewer = {key: leaf for key, leaf in saved.tensors.items() if ".layers.1." not in key}
    with pytest.raises(MismatchError, match="is not of this base"):
        from_peft(PeftAdapter(config, fewer), kernels, NAMES)
    names = {key: name for key, name in NAMES.items() if "query" not in key}
    with pytest.raises(MismatchError, match=r"no layer for.*q_proj"):
        from_peft(saved, kernels, names)
    with pytest.raises(ConfigError, match="no layer for the projection attention/query"):
        to_peft(adapter, own["blocks"], kernels, names, "base")
