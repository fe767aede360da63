"""`Precision`: the types of weights, cache and arithmetic while a model is used.

Weights are rounded once, when they are loaded; a checkpoint stays as it is.
"""

from typing import Any, Literal

from jaxgpt.config import configclass, replace
from jaxgpt.errors import ConfigError
from jaxgpt.inference.fastest_dtype import choose_dtype
from jaxgpt.inference.int8_weights import round_weights
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.attention.int8_cache import AsFromInt8Cache, empty_int8_cache
from jaxgpt.model.attention.kv_cache import MakeCache, empty_cache
from jaxgpt.model.gpt import Gpt

_CACHES: dict[str, MakeCache] = {"model": empty_cache, "int8": empty_int8_cache}


@configclass
class Precision:
    """Precision of weights, cache and arithmetic while a model is used."""

    weights: Literal["model", "int8"] = "model"
    """Type of the weights: the model's, or int8 with a scale for each output."""
    cache: Literal["model", "int8"] = "model"
    """Type of cached keys and values: the model's, or int8 with a scale for each token and head."""

    compute: Literal["model", "fastest", "float32", "bfloat16"] = "model"
    """Type of activations and products: the model's, a given one, or the fastest: a bfloat16 model
    computes in float32 on one CPU that does so faster in a short trial at the start, unless weights
    are int8."""

    def choose(self, model: Gpt, is_shared: bool) -> Gpt:
        """Return a model that computes in the type of this precision.

        Args:
            model: whose type may change.
            is_shared: whether several devices hold its parameters; the fastest is then its own.
        """
        dtype = model.config.compute_dtype
        if self.compute in ("float32", "bfloat16"):
            dtype = self.compute
        elif self.compute == "fastest" and self.weights == "model" and not is_shared:
            dtype = choose_dtype(model)
        return model.clone(config=replace(model.config, compute_dtype=dtype))

    def round(self, model: Gpt, params: Any) -> Any:
        """Return the parameters in this precision; those that are rounded already stay."""
        return round_weights(model, params) if self.weights == "int8" else params

    @property
    def empty_cache(self) -> MakeCache:
        """Return what makes a cache of this precision."""
        return _CACHES[self.cache]

    def without_cache(self, model: Gpt) -> Gpt:
        """Return a model that computes without a cache what the model computes with this one.

        Raises:
            ConfigError: the model's attention has no kernel to choose.
        """
        if self.cache == "model":
            return model
        attention = model.config.attention
        if not isinstance(attention, GroupedQueryAttention):
            raise ConfigError(
                f"--cache {self.cache}: a {type(attention).__name__} has no kernel that rounds "
                "keys and values; use --cache model"
            )
        attention = replace(attention, kernel=AsFromInt8Cache(kernel=attention.kernel))
        return model.clone(config=replace(model.config, attention=attention))


# All as in the model.
UNROUNDED = Precision()
# Of commands whose text people wait for.
WHILE_WRITING = Precision(compute="fastest")
