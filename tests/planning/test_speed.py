"""The planner's bytes between devices next to the collectives of the compiled step."""

import math
import re

import pytest

from jaxgpt.config import replace
from jaxgpt.data.loader import BatchConfig
from jaxgpt.evaluation.objective import FrozenModel
from jaxgpt.finetuning.distillation import Distilled
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.cost import num_parameters
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layer_stack import Unrolled
from jaxgpt.model.layers.adapters import Lora
from jaxgpt.model.layers.feed_forward import SwiGlu
from jaxgpt.model.moe.dispatch import Capacity, Dispatch, Dropless
from jaxgpt.model.moe.mixture_of_experts import MixtureOfExperts
from jaxgpt.model.pipeline import Pipelined
from jaxgpt.parallel.mesh import MeshConfig, abstract_mesh
from jaxgpt.planning.devices import find_device
from jaxgpt.planning.memory import plan_kept_state
from jaxgpt.planning.planned_run import PlannedRun, plan_pretraining
from jaxgpt.planning.speed import SpeedPlan, plan_speed
from jaxgpt.runs.config import RunConfig, TrainConfig
from jaxgpt.runs.run import BaseCheckpoint
from jaxgpt.runs.tuning.finetune_config import FinetuneRunConfig
from tests.planning.compiling import compile_step_of

VOCAB, WIDTH, LENGTH, ROWS, LAYERS = 512, 128, 32, 32, 2
DENSE = TrainConfig(
    model=GptConfig(
        num_layers=LAYERS,
        d_model=WIDTH,
        attention=GroupedQueryAttention(num_heads=4, num_kv_heads=2, head_dim=32),
        feed_forward=SwiGlu(hidden=384),
        layers=Unrolled(),
        compute_dtype="float32",
    ),
    batch=BatchConfig(sequence_length=LENGTH, global_batch_size=ROWS),
)
# Of one device, in float32.
STREAM = ROWS * LENGTH * WIDTH * 4 / 8


def with_experts(dispatch: Dispatch, mesh: MeshConfig) -> TrainConfig:
    experts = MixtureOfExperts(num_experts=8, expert=SwiGlu(hidden=64), dispatch=dispatch)
    return replace(DENSE, model=replace(DENSE.model, feed_forward=experts), mesh=mesh)


def plan_of(config: TrainConfig) -> SpeedPlan:
    mesh = abstract_mesh(config.mesh, 8)
    run = plan_pretraining(config, VOCAB)
    return plan_speed(run, plan_kept_state(run, mesh), mesh, find_device("h100"), 0.4)


def result_bytes(program: str, collective: str) -> int:
    """Bytes of what one kind of collective returns, of arrays with the model's width."""
    found = 0
    text = re.sub(r"/\*.*?\*/", "", program)
    for match in re.finditer(rf"= ([^=]*?) {collective}\(", text):
        for dims in re.findall(r"f32\[([\d,]+)\]", match[1]):
            sizes = [int(size) for size in dims.split(",")]
            if sizes[-1] == WIDTH and len(sizes) > 1:
                found += 4 * math.prod(sizes)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("dispatch", [Capacity(factor=1.0), Dropless(block_size=16)], ids=str)
def test_what_goes_to_experts_elsewhere_is_what_the_compiler_sends(dispatch: Dispatch) -> None:
    config = with_experts(dispatch, MeshConfig(data=1, expert=8))
    program = compile_step_of(plan_pretraining(config, VOCAB)).as_text()
    # Each device keeps an eighth of what it sends all to all, and of what it gathers.
    sent = (result_bytes(program, "all-to-all") + result_bytes(program, "all-gather")) * 7 / 8
    sent += result_bytes(program, "reduce-scatter") * 7
    per_token = config.model.feed_forward.exchanged_per_token(LENGTH, 8)
    assert sent == 2 * LAYERS * per_token * STREAM
    assert plan_of(config).exchanged_bytes["expert"] > sent


@pytest.mark.slow
def test_what_stages_hand_on_is_what_the_compiler_sends() -> None:
    layers = Pipelined(num_micro_batches=4)
    mesh = MeshConfig(data=4, pipeline=2)
    config = replace(DENSE, model=replace(DENSE.model, layers=layers), mesh=mesh)
    program = compile_step_of(plan_pretraining(config, VOCAB)).as_text()
    num_ticks = 4 + 2 - 1
    # One in the loop forward, one in the loop backward; both stages' rows are gathered before.
    handed_on = result_bytes(program, "collective-permute") * num_ticks
    gathered = result_bytes(program, "all-gather") / 2
    assert handed_on == 2 * 2 * layers.stretch(mesh.sizes) * STREAM
    assert gathered == 2 * STREAM
    found = plan_of(config).exchanged_bytes
    assert found["pipeline"] > handed_on + gathered


def test_stages_that_wait_take_longer() -> None:
    def seconds(num_micro_batches: int) -> float:
        model = replace(DENSE.model, layers=Pipelined(num_micro_batches=num_micro_batches))
        return plan_of(
            replace(DENSE, model=model, mesh=MeshConfig(data=4, pipeline=2))
        ).compute_seconds

    calm = plan_of(replace(DENSE, mesh=MeshConfig(data=8))).compute_seconds
    assert seconds(1) == pytest.approx(2 * calm)
    assert seconds(4) == pytest.approx(1.25 * calm)


def test_frozen_weights_are_gathered_as_trained_ones_are() -> None:
    """At a rank of 1 an adapter has next to no gradients; those of all weights are float32."""
    fsdp = replace(DENSE, mesh=MeshConfig(data=1, fsdp=8))
    base = BaseCheckpoint(run="runs/base", step=1, fingerprint="")
    whole = FinetuneRunConfig(model=DENSE.model, base=base, batch=DENSE.batch, mesh=fsdp.mesh)
    teacher = FrozenModel(run="runs/large", step=1, fingerprint="", model=DENSE.model)
    distilled = Distilled(teacher="runs/large", frozen_teacher=teacher)

    def sent(config: RunConfig) -> int:
        run = PlannedRun(config, VOCAB, plan_pretraining(DENSE, VOCAB).row, num_segments=8)
        mesh = abstract_mesh(config.mesh, 8)
        found = plan_speed(run, plan_kept_state(run, mesh), mesh, find_device("h100"), 0.4)
        return found.exchanged_bytes["fsdp"]

    assert sent(whole) == plan_of(fsdp).exchanged_bytes["fsdp"]
    shares = num_parameters(DENSE.model, VOCAB) / 8
    norms = (2 * LAYERS + 1) * WIDTH / 8  # Whole on each device.
    gradients = 7 * 4 * (shares - norms)
    assert sent(replace(whole, adapter=Lora(rank=1))) == pytest.approx(
        sent(whole) - gradients, rel=0.03
    )
    assert sent(replace(whole, objective=distilled)) == sent(whole) + gradients


def test_experts_that_are_split_have_no_gradients_to_exchange() -> None:
    def expert_bytes(hidden: int) -> int:
        config = with_experts(Dropless(), MeshConfig(data=1, expert=8))
        experts = replace(config.model.feed_forward, expert=SwiGlu(hidden=hidden))
        config = replace(config, model=replace(config.model, feed_forward=experts))
        return plan_of(config).exchanged_bytes["expert"]

    assert expert_bytes(64) == expert_bytes(1024)
