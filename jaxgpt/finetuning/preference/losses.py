"""Losses of preferences as functions of answers; what they are trained with is in their files.

With s(x) = 1 / (1 + exp(-x)), y_w the preferred and y_l the other answer to x, and the log-ratio

    h(y) = log pi(y | x) - log pi_ref(y | x)

where log pi(y | x) is the sum over the tokens of y.
"""

import jax
import jax.numpy as jnp

from jaxgpt.finetuning.preference.answers import Answers

# Below 0 by enough that float32 tells the probability from 1.
_LARGEST_LOG_PROBABILITY = -1e-6


def dpo_losses(
    chosen: Answers, rejected: Answers, beta: float, label_smoothing: float = 0.0
) -> jax.Array:
    """Return the losses of direct preference optimisation.

        d = beta (h(y_w) - h(y_l))
        L = -(1 - e) log s(d) - e log s(-d)

    e = 0: Rafailov and others 2023 (arXiv:2305.18290), equation 7. e > 0, conservative DPO, takes
    a share e of the labels for wrong (Mitchell 2023, "A note on DPO with noisy preferences").
    """
    difference = beta * (chosen.log_ratios - rejected.log_ratios)
    right, wrong = jax.nn.log_sigmoid(difference), jax.nn.log_sigmoid(-difference)
    return -(1 - label_smoothing) * right - label_smoothing * wrong


def ipo_losses(chosen: Answers, rejected: Answers, beta: float) -> jax.Array:
    """Return the losses of identity preference optimisation.

        L = (h(y_w) - h(y_l) - 1 / (2 beta))^2

    Azar and others 2023 (arXiv:2310.12036), equation 17, whose tau is beta. Pass `per_token()` of
    the answers for log-ratios that are means over tokens.
    """
    return jnp.square(chosen.log_ratios - rejected.log_ratios - 1 / (2 * beta))


def orpo_losses(chosen: Answers, rejected: Answers, weight: float) -> jax.Array:
    """Return the losses of odds ratio preference optimisation, which has no reference.

        P(y) = exp(log pi(y | x) / |y|),  odds(y) = P(y) / (1 - P(y))
        L = -log P(y_w) - weight log s(log odds(y_w) - log odds(y_l))

    Hong and others 2024 (arXiv:2403.07691), section 4, equations 3 to 7; the weight is lambda.
    """
    chosen_log_odds, rejected_log_odds = log_odds(chosen), log_odds(rejected)
    ratios = jax.nn.log_sigmoid(chosen_log_odds - rejected_log_odds)
    return -chosen.per_token().policy - weight * ratios


def log_odds(answers: Answers) -> jax.Array:
    """Return log (P / (1 - P)) with P the geometric mean of the probabilities of tokens."""
    mean = jnp.minimum(answers.per_token().policy, _LARGEST_LOG_PROBABILITY)
    # log(1 - exp(x)): either form is exact on its side of -ln 2 (Maechler 2012, "Accurately
    # computing log(1 - exp(-|a|))").
    rest = jnp.where(mean > -jnp.log(2.0), jnp.log(-jnp.expm1(mean)), jnp.log1p(-jnp.exp(mean)))
    return mean - rest


def kto_losses(
    answers: Answers,
    is_desirable: jax.Array,
    z0: jax.Array,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> jax.Array:
    """Return the losses of Kahneman-Tversky optimisation, of single answers.

        L = desirable_weight (1 - s(beta (h(y) - z0)))        y is desirable
        L = undesirable_weight (1 - s(beta (z0 - h(y))))      it is not

    Ethayarajh and others 2024 (arXiv:2402.01306), section 4.1, equation 8.

    Args:
        answers: their log-probabilities.
        is_desirable: 1 or 0 for each.
        z0: estimate of the divergence of policy and reference, see `kto_baseline`; no gradient.
        beta: how much an answer's log-ratio counts.
        desirable_weight: lambda_D.
        undesirable_weight: lambda_U.
    """
    difference = beta * (answers.log_ratios - jax.lax.stop_gradient(z0))
    good = desirable_weight * jax.nn.sigmoid(-difference)
    bad = undesirable_weight * jax.nn.sigmoid(difference)
    return jnp.where(is_desirable > 0, good, bad)


def kto_baseline(mismatched: Answers, exists: jax.Array) -> jax.Array:
    """Return z0 [B, 1]: max(0, mean of h) over the mismatched answers [B, P] of a row.

    The paper averages over the examples that are at hand together, each with the answer to another
    prompt (section 4.1). Here these are the examples of a row: how many rows are computed together
    then changes nothing.
    """
    mean_B1 = jnp.sum(mismatched.log_ratios * exists, axis=1, keepdims=True) / jnp.maximum(
        jnp.sum(exists, axis=1, keepdims=True), 1
    )
    return jnp.maximum(mean_B1, 0)
