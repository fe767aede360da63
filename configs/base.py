"""GPT-2 small, 124M parameters, with rotary positions: every field of a pretraining run.

    python -m jaxgpt.train --config configs/base.py --data data/corpus --run-dir runs/base

Batches of 512 x 1,024 = 524,288 tokens, about as many as nanoGPT's reproduction of GPT-2 uses;
19,073 steps are 10 billion tokens. Rows divide among 1, 2, 4 and 8 GPUs as they are. A micro-batch
of 64 rows is meant for a GPU of 80 GB; a smaller one needs more --batch.num-micro-batches. On a
CPU, cut it to size from the command line:

    python -m jaxgpt.train --config configs/base.py --data data/corpus \
        --schedule.num-steps 20 --batch.global-batch-size 4 --batch.num-micro-batches 1 \
        --batch.sequence-length 256

Other configs derive from this one and name only what differs.
"""

from jaxgpt import EvaluationConfig, TrainConfig
from jaxgpt.checkpoints import CheckpointConfig
from jaxgpt.data import BatchConfig, DataConfig
from jaxgpt.evaluation import NextToken
from jaxgpt.model import (
    Dropout,
    Fastest,
    Gelu,
    GptConfig,
    GroupedQueryAttention,
    Initialization,
    LanguageModelHead,
    LayerNorm,
    NoRemat,
    Rotary,
    Unrolled,
)
from jaxgpt.parallel import MeshConfig, RuntimeConfig, ShardingRules
from jaxgpt.training import (
    AdamW,
    Cosine,
    LoggingConfig,
    LossConfig,
    NoAveraging,
    SkipSpikes,
    TokenChunks,
    WatchdogConfig,
)

config = TrainConfig(
    model=GptConfig(
        num_layers=12,
        d_model=768,
        position=Rotary(max_wavelength=10_000.0),
        attention=GroupedQueryAttention(
            num_heads=12,
            num_kv_heads=12,
            head_dim=64,
            windows=(None,),
            qkv_bias=False,
            output_bias=False,
            qk_norm=None,
            soft_cap=None,
            query_scale=None,
            kernel=Fastest(),
        ),
        feed_forward=Gelu(hidden=3072, use_bias=False),
        norm=LayerNorm(eps=1e-5, use_bias=False),
        head=LanguageModelHead(tied=True, soft_cap=None, zero_init=False),
        scale_embedding=False,
        dropout=Dropout(embedding=0.0, attention=0.0, residual=0.0),
        initialization=Initialization(std=0.02, zero_output=False),
        remat=NoRemat(),
        layers=Unrolled(),
        param_dtype="float32",
        compute_dtype="bfloat16",
        vocab_multiple=128,
    ),
    data=DataConfig(datasets=(), mask_documents=True),
    batch=BatchConfig(sequence_length=1024, global_batch_size=512, num_micro_batches=8),
    schedule=Cosine(
        num_steps=19_073, peak_learning_rate=6e-4, warmup_share=0.0375, final_share=0.1
    ),
    optimizer=AdamW(
        weight_decay=0.1, clip_norm=1.0, b1=0.9, b2=0.95, eps=1e-8, averaging=NoAveraging()
    ),
    objective=NextToken(),
    loss=LossConfig(z_loss=0.0, logits=TokenChunks(num_tokens=8192), round_logits=False),
    recovery=SkipSpikes(
        window=128,
        sigmas=6.0,
        min_steps=64,
        max_in_a_row=8,
        max_in_window=32,
        rewind_steps=100,
        max_rollbacks=5,
    ),
    evaluation=EvaluationConfig(
        every_steps=None,
        max_tokens=1_000_000,
        batch_size=None,
        prompts=("The", "In the beginning"),
        sample_tokens=100,
    ),
    checkpoint=CheckpointConfig(
        every_steps=None,
        keep_latest=2,
        keep_every_steps=None,
        keep_best=1,
        max_failed_saves=3,
    ),
    logging=LoggingConfig(every_steps=10, tensorboard=True, progress_seconds=10.0),
    watchdog=WatchdogConfig(medians=10.0, least_seconds=300.0, slow_seconds=1800.0),
    mesh=MeshConfig(data=-1, fsdp=1, expert=1, context=1, tensor=1, pipeline=1),
    sharding=ShardingRules(),
    runtime=RuntimeConfig(
        compile_cache="~/.cache/jaxgpt/xla",
        deterministic=False,
        matmul_precision="default",
        max_copied_bytes=4_000_000_000,
        cpu_devices=1,
        check_replicas_steps=None,
    ),
    seed=0,
)
