"""`MixtureOfExperts`: many feed-forward layers, of which a router chooses a few for each token.

    y = sum over the K chosen experts e of gate_e * expert_e(x)  (+ shared(x))

Parameters grow with the number of experts, operations with the number that is chosen.

Axes: B rows, T tokens, D model, E experts, K chosen experts.
"""

from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import meta

from jaxgpt.config import Execution, Training, configclass
from jaxgpt.model.layers.feed_forward import FeedForward, SwiGlu
from jaxgpt.model.layers.matmul import CustomKernel
from jaxgpt.model.layers.placement import is_split_for_storage, round_and_gather
from jaxgpt.model.layers.projection import LayerSettings, kept_param
from jaxgpt.model.moe.dispatch import Capacity, Dispatch
from jaxgpt.model.moe.dropless import ApplyExpert
from jaxgpt.model.moe.router import (
    Choice,
    Gates,
    NormalizedGates,
    Router,
    count_load,
    load_balance_loss,
    router_z_loss,
)
from jaxgpt.model.moe.routing_stats import RoutingOfLayer, publish_routing

# Name of the router's parameters, whose kernel is used in float32 whatever the compute type.
ROUTER = "router"
# Name of the parameters of all experts, stacked.
EXPERTS = "experts"
# Names of the parameters that the model casts to its compute type wherever it uses them.
_WEIGHTS = ("kernel", "table")


@configclass
class MixtureOfExperts(FeedForward):
    """Experts of one kind, chosen by a router for each token (Shazeer et al. 2017)."""

    num_experts: int = 8
    """Number of experts that the router chooses among."""
    num_active: int = 2
    """Number of experts that each token goes through."""
    expert: FeedForward = SwiGlu()
    """Kind of the experts."""
    shared: FeedForward | None = None
    """Shared feed-forward layer that every token also goes through (DeepSeekMoE, arXiv:2401.06066);
    None for none."""
    gates: Gates = NormalizedGates()
    """Weights of the outputs of the chosen experts."""
    dispatch: Execution[Dispatch] = Capacity()
    """Dispatch of tokens to their experts; some kinds drop tokens."""
    load_balance: Training[float] = 0.01
    """Weight of each layer's load-balance loss in the objective."""
    router_z_loss: Training[float] = 1e-3
    """Weight of each router's squared log-normaliser in the objective."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_active <= self.num_experts:
            raise ValueError(
                f"num_active must be from 1 to num_experts={self.num_experts}, "
                f"not {self.num_active}"
            )
        for name in ("load_balance", "router_z_loss"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        for name, part in (("expert", self.expert), ("shared", self.shared)):
            if part is not None and part.count_experts() is not None:
                raise ValueError(f"{name} must be a feed-forward layer without experts of its own")
        self.gates.check(self.num_active)

    def count_experts(self) -> tuple[int, int] | None:
        return self.num_experts, self.num_active

    def exchanged_per_token(self, num_tokens: int, num_peers: int) -> float:
        return self.dispatch.exchanged_per_token(
            num_tokens, self.num_experts, self.num_active, num_peers
        )

    def build(self, settings: LayerSettings, name: str) -> nn.Module:
        return MixtureOfExpertsLayer(config=self, settings=settings, name=name)


class MixtureOfExpertsLayer(nn.Module):
    """See `MixtureOfExperts`.

    Parameters: `router`, `experts` (an expert's, every leaf [E, ...]), `shared` (if there is one).
    """

    config: MixtureOfExperts
    settings: LayerSettings

    @nn.compact
    def __call__(self, x_BTD: jax.Array, valid_BT: jax.Array, deterministic: bool) -> jax.Array:
        """Map [B, T, D] to [B, T, D]; padding goes to no expert and counts in no statistic."""
        config = self.config
        router = Router(
            num_experts=config.num_experts,
            num_active=config.num_active,
            gates=config.gates,
            settings=self.settings,
            name=ROUTER,
        )
        choice, logits_BTE = router(x_BTD, valid_BT)
        settings = self.settings.without_adapter
        expert = config.expert.build(settings, "expert").clone(parent=None)

        def apply_expert(params: Any, x_BTD: jax.Array) -> jax.Array:
            valid_BT = jnp.ones(x_BTD.shape[:2], bool)
            return cast(jax.Array, expert.apply({"params": params}, x_BTD, valid_BT, True))

        experts = kept_param(self, EXPERTS, self._init_experts, expert)
        if self.is_initializing():
            # No parameter depends on it, and all layers are made under `vmap`.
            y_BTD = jnp.zeros_like(x_BTD)
        else:
            y_BTD, dropped_B = self._dispatch(apply_expert, experts, expert, x_BTD, choice)
            self._report(choice, logits_BTE, dropped_B)
        if config.shared is not None:
            shared = config.shared.build(settings, "shared")
            y_BTD = y_BTD + shared(x_BTD, valid_BT, deterministic)
        return y_BTD

    def _report(self, choice: Choice, logits_BTE: jax.Array, dropped_B: jax.Array) -> None:
        """Write what the router did, if the caller of `apply` asks for it."""
        load_BE = count_load(choice, self.config.num_experts)
        balance_B = load_balance_loss(logits_BTE, load_BE, choice.valid_BT)
        z_loss_B = router_z_loss(logits_BTE, choice.valid_BT)
        config = self.config
        routing = RoutingOfLayer(
            auxiliary_B=config.load_balance * balance_B + config.router_z_loss * z_loss_B,
            balance_B=balance_B,
            z_loss_B=z_loss_B,
            load_BE=load_BE,
            dropped_B=dropped_B,
        )
        publish_routing(self, routing)

    def _dispatch(
        self,
        apply_expert: ApplyExpert,
        experts: Any,
        expert: nn.Module,
        x_BTD: jax.Array,
        choice: Choice,
    ) -> tuple[jax.Array, jax.Array]:
        """Collect the experts' kernels from the devices along `fsdp`, and apply them."""
        boxed = jax.tree.leaves(
            jax.eval_shape(lambda: self._init_experts(jax.random.key(0), expert)),
            is_leaf=lambda leaf: isinstance(leaf, meta.AxisMetadata),
        )
        named, structure = jax.tree_util.tree_flatten_with_path(
            experts, is_leaf=lambda leaf: isinstance(leaf, CustomKernel)
        )
        axes = [
            box.names if is_rounded(path) else ()
            for (path, _), box in zip(named, boxed, strict=True)
        ]

        def run(leaves: list[jax.Array], x_BTD: jax.Array, choice: Choice) -> Any:
            dtype = self.settings.compute_dtype
            leaves = [
                round_and_gather(leaf, dtype, *names) if names else leaf
                for leaf, names in zip(leaves, axes, strict=True)
            ]
            return self.config.dispatch.run(
                apply_expert, structure.unflatten(leaves), x_BTD, choice
            )

        leaves = [leaf for _, leaf in named]
        if any(
            is_split_for_storage(leaf.shape, names)
            for leaf, names in zip(leaves, axes, strict=True)
        ):
            # Else the kernels of all layers would be kept, collected, for the backward pass.
            names = self.config.dispatch.results_to_keep(self.config.num_experts)
            keep_results = jax.checkpoint_policies.save_only_these_names(*names)
            run = jax.checkpoint(run, policy=keep_results)
        return cast(tuple[jax.Array, jax.Array], run(leaves, x_BTD, choice))

    def _init_experts(self, key: jax.Array, expert: nn.Module) -> Any:
        """Initialise every expert from its own key; leaves [E, ...], axis 0 named "expert"."""
        x_BTD = jnp.zeros((1, 1, self.settings.d_model), jnp.dtype(self.settings.compute_dtype))
        valid_BT = jnp.ones((1, 1), bool)

        def init_expert(key: jax.Array) -> Any:
            return expert.init(key, x_BTD, valid_BT, True)["params"]

        stacked = jax.vmap(init_expert)(jax.random.split(key, self.config.num_experts))
        return meta.add_axis(stacked, 0, {nn.PARTITION_NAME: "expert"})


def is_rounded(path: tuple[Any, ...]) -> bool:
    """Return whether the model casts the parameter at a path to its compute type at every use.

    Norms and biases stay as they are, and routers, which compute in float32.
    """
    return path[-1].key in _WEIGHTS and all(key.key != ROUTER for key in path)
