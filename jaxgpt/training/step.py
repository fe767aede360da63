"""One optimiser step: a pure function of (state, batch), jitted with its state donated.

Gradients and losses of micro-batches accumulate as sums and are divided once by the sum of weights,
so that neither padding nor the number of micro-batches changes the objective.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxgpt.batch import Batch
from jaxgpt.model.adapted import join
from jaxgpt.model.layers.dtypes import accumulator_dtype
from jaxgpt.parallel.sharding import batch_sharding
from jaxgpt.runtime.target import compile_target, names_xla_flag
from jaxgpt.training.loss import LossFunction, LossSums
from jaxgpt.training.recovery import NoSkipping, Recovery, Skips, choose
from jaxgpt.training.state import TrainState
from jaxgpt.training.weight_copies import NO_COPIES, WeightCopies


class StepMetrics(NamedTuple):
    """Float32 scalars but for the last three, on the device, read by the host one step late.

    Attributes:
        loss: mean cross-entropy per predicted token, in nats.
        bits_per_byte: the same sum over the bytes that the predicted tokens stand for; None if no
            text is predicted.
        grad_norm: global norm of the mean gradient before clipping.
        weight: number of predicted tokens.
        skips: whether this update was skipped, and counts of skipped ones; int32.
        routing: see `RoutingSums.metrics`; None for a model without experts.
        figures: means of `LossSums.figures`; None for an objective that has none.
    """

    loss: jax.Array
    bits_per_byte: jax.Array | None
    grad_norm: jax.Array
    weight: jax.Array
    skips: Skips = Skips()
    routing: dict[str, jax.Array] | None = None
    figures: dict[str, jax.Array] | None = None


# On NVIDIA GPUs: cuBLAS multiplies wherever XLA would put no more than the product into a kernel of
# its own. In the same kernel it adds to the residual stream or to a gradient.
_GPU_OPTIONS = {"xla_gpu_enable_cublaslt": True, "xla_gpu_triton_gemm_any": False}

TrainingStep = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]


def make_train_step(
    loss_function: LossFunction,
    optimizer: optax.GradientTransformation,
    num_micro_batches: int = 1,
    recovery: Recovery | None = None,
    copies: WeightCopies = NO_COPIES,
) -> TrainingStep:
    """Return the pure step; wrap it with `compile_step` to run it.

    Args:
        loss_function: minimised loss.
        optimizer: from mean gradients to updates; may take their norm as `grad_norm`.
        num_micro_batches: parts of a batch, computed one after the other.
        recovery: decides which updates are skipped; None: as `NoSkipping`.
        copies: of weights, that all micro-batches use.
    """
    accept = (recovery or NoSkipping()).accept
    update = jax.named_scope("optimizer")(optax.with_extra_args_support(optimizer).update)

    def objective(params: Any, batch: Batch, rng: jax.Array) -> tuple[jax.Array, LossSums]:
        sums = loss_function(params, batch, rng)
        return sums.objective, sums

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        rng = jax.random.fold_in(state.rng, state.step)
        grads, sums = accumulate(
            objective, state.trainable, batch, rng, num_micro_batches, copies, state.frozen
        )
        weight = jnp.maximum(sums.weight, 1.0)
        # Of the sums: the means are then used element by element only, and never written out.
        with jax.named_scope("gradient_norm"):
            loss, grad_norm = sums.loss / weight, optax.tree.norm(grads) / weight
        share = 1 / weight
        grads = jax.tree.map(lambda grad: grad * share.astype(grad.dtype), grads)
        updates, opt_state = update(grads, state.opt_state, state.trainable, grad_norm=grad_norm)
        accepted, memory, skips = accept(state.memory, state.step, loss, grad_norm)
        with jax.named_scope("optimizer"):
            trainable = optax.apply_updates(state.trainable, updates)
        new_state = state.replace(
            step=state.step + 1,
            trainable=choose(accepted, trainable, state.trainable),
            opt_state=choose(accepted, opt_state, state.opt_state),
            memory=memory,
        )
        metrics = StepMetrics(
            loss=loss,
            bits_per_byte=None
            if sums.num_bytes is None
            else sums.loss / jnp.log(2.0) / jnp.maximum(sums.num_bytes, 1.0),
            grad_norm=grad_norm,
            weight=sums.weight,
            skips=skips,
            routing=None if sums.routing is None else sums.routing.metrics(weight),
            figures=_means(sums.figures, weight),
        )
        return new_state, metrics

    return step


def _means(figures: dict[str, jax.Array] | None, weight: jax.Array) -> dict[str, jax.Array] | None:
    """Return the means of an objective's scalars; its counts of several numbers are for scores."""
    if figures is None:
        return None
    return {name: figure / weight for name, figure in figures.items() if not figure.ndim}


def accumulate(
    objective: Callable[[Any, Batch, jax.Array], tuple[jax.Array, LossSums]],
    params: Any,
    batch: Batch,
    rng: jax.Array,
    num_micro_batches: int,
    copies: WeightCopies = NO_COPIES,
    frozen: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[Any, LossSums]:
    """Sum gradients and losses over micro-batches, one after another.

    The objective is given `params` joined with the `frozen` parameters, which get no gradient.

    Micro-batch m takes rows m, m + M, m + 2M, ...: each device keeps the rows it has.
    Its dropout key is `fold_in(rng, m)`. Sums are kept in float32 or wider: in bfloat16 the later
    micro-batches would be rounded away.
    """
    frozen = dict(frozen)
    stored = copies.make(params), copies.make(frozen)

    def gradient(stored: Any, batch: Batch, rng: jax.Array) -> tuple[Any, LossSums]:
        with copies.in_use():
            used, others = map(copies.restore, stored, (params, frozen))

            def of_trained(used: Any) -> tuple[jax.Array, LossSums]:
                return objective(join(used, others), batch, rng)

            grads, sums = jax.grad(of_trained, has_aux=True)(used)
        return copies.cut(grads), sums

    if num_micro_batches == 1:
        grads, sums = gradient(stored, batch, jax.random.fold_in(rng, 0))
        return copies.join(grads, params), sums

    def split(rows: jax.Array) -> jax.Array:
        return jnp.swapaxes(rows.reshape(-1, num_micro_batches, *rows.shape[1:]), 0, 1)

    def add(carry: Any, inputs: tuple[jax.Array, Batch]) -> tuple[Any, None]:
        index, micro_batch = inputs
        one = gradient(stored, micro_batch, jax.random.fold_in(rng, index))
        return jax.tree.map(jnp.add, carry, one), None

    micro_batches = jax.tree.map(split, batch)
    first = jax.tree.map(lambda rows: rows[0], micro_batches)
    shapes = jax.eval_shape(gradient, stored, first, rng)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, _sum_dtype(leaf.dtype)), shapes)
    (grads, sums), _ = jax.lax.scan(add, zero, (jnp.arange(num_micro_batches), micro_batches))
    return copies.join(grads, params), sums


def _sum_dtype(dtype: Any) -> Any:
    return accumulator_dtype(dtype) if jnp.issubdtype(dtype, jnp.floating) else dtype


def compile_step(
    step: TrainingStep,
    abstract_state: TrainState,
    mesh: Mesh,
) -> TrainingStep:
    """Jit a step for states placed like `abstract_state`, whose buffers it reuses."""
    placed = jax.tree.map(lambda leaf: leaf.sharding, abstract_state)
    return jax.jit(
        step,
        in_shardings=(placed, batch_sharding(mesh)),
        out_shardings=(placed, None),
        donate_argnums=0,
        compiler_options=_compiler_options(),
    )


def _compiler_options() -> dict[str, bool] | None:
    """Return XLA's options for the target, without those that the user's `XLA_FLAGS` name."""
    if not compile_target().multiplies_by_cublas:
        return None
    return {name: value for name, value in _GPU_OPTIONS.items() if not names_xla_flag(name)}


def compile_ahead(
    step: Any,
    abstract_state: TrainState,
    example: Batch,
    num_rows: int,
    mesh: Mesh,
) -> TrainingStep:
    """Compile the result of `compile_step` for batches of `num_rows` rows like those of `example`.

    Called while the device is still busy with the first state, it costs no time of its own.
    """
    sharding = batch_sharding(mesh)
    batch = jax.tree.map(
        lambda part: jax.ShapeDtypeStruct(
            (num_rows, *part.shape[1:]), part.dtype, sharding=sharding
        ),
        example,
    )
    return step.lower(abstract_state, batch).compile()
