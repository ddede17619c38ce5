"""The words that other frameworks and papers use for what a spec says, by what they are called here.

A target is `section.key`, where a section is a part of a spec, a block type or a task; `type.NAME` and
`task.NAME` are values of these keys, `metric.NAME` is an objective. Tests hold every target to the models.
"""

from __future__ import annotations

from blocks.base.wiring import kind_of
from blocks.find import all_wiring, block_types
from composer.data.find import data_tasks
from composer.measures.registry import MEASURES


def _of_blocks_and_tasks() -> dict[str, str]:
    """Return the aliases that configs of blocks and tasks give themselves and their fields."""
    return {
        f"{tag}.{name}" if key == tag else f"{name}.{key}": words
        for tag, configs in (("type", block_types()), ("task", data_tasks()))
        for name, config in configs.items()
        for key, words in config.other_names.items()
    }


TARGETS: dict[str, str] = {
    # the model
    "model.width": "d_model model_dim hidden_size hidden_dim dim n_embd embed_dim emb_dim embedding_dim "
    "embedding_size d_embed channels n_channels hidden residual_dim",
    "model.vocab": "vocab_size vocabulary vocabulary_size n_vocab num_tokens num_embeddings",
    "model.context": "seq_len seqlen seq_length sequence_length max_seq_len max_seq_length max_length "
    "max_len block_size context_length context_size context_window n_ctx n_positions ctx_len ctx "
    "max_position_embeddings length",
    "model.bias": "use_bias qkv_bias attention_bias mlp_bias add_bias_linear",
    "model.norm_type": "normalization norm_class norm_kind",
    "model.dropout": "resid_dropout resid_pdrop embd_pdrop embedding_dropout hidden_dropout dropout_rate "
    "dropout_p",
    "model.positions": "learned_positions position_embeddings absolute_positions wpe",
    "model.embedding_scale": "embed_scale scale_embeddings embedding_multiplier scale_emb",
    "model.tie_embeddings": "tie_word_embeddings tie_weights tied_embeddings weight_tying share_embeddings "
    "tie_embedding",
    # stages
    "stage.recur": "repeat repeats repeated loop loops n_loops num_loops loop_count recurrence recurrent "
    "recurrences n_recur n_recurrences num_recurrences iterations n_iterations num_iterations iters "
    "num_steps n_steps recurrence_depth ponder_steps times shared tied",
    "stage.stack": "layers n_layer n_layers num_layers num_hidden_layers depth n_blocks num_blocks "
    "n_hidden_layers num_decoder_layers decoder_layers count untied",
    "stage.step": "block blocks body layer layers layout sublayers modules mixers sequence steps",
    "use.use": "block module",
    **_of_blocks_and_tasks(),
    # training
    "train.tokens": "max_tokens total_tokens num_train_tokens train_tokens n_tokens training_tokens",
    "train.batch_tokens": "tokens_per_batch batch_size_tokens tokens_per_step global_batch_tokens",
    "train.lr": "learning_rate learningrate max_lr peak_lr base_lr rate alpha",
    "train.schedule": "lr_schedule scheduler lr_scheduler lr_scheduler_type wsd decay",
    "schedule.warmup": "warmup_ratio warmup_fraction warm_up",
    "schedule.decay": "cooldown decay_ratio decay_fraction annealing",
    "schedule.stable": "constant plateau",
    "train.weight_decay": "wd l2 weightdecay",
    "train.betas": "beta adam_betas",
    "train.clip": "grad_clip gradient_clip gradient_clip_val grad_clip_norm max_grad_norm clip_grad "
    "clip_grad_norm gradient_clipping",
    "train.precision": "dtype amp mixed_precision bf16 fp16 torch_dtype param_dtype",
    "train.accumulate": "gradient_accumulation gradient_accumulation_steps grad_accum "
    "accumulate_grad_batches grad_accum_steps accumulation",
    "train.seed": "random_seed manual_seed rng_seed",
    "train.devices": "gpus n_gpus num_gpus num_devices world_size",
    "train.strategy": "parallelism distributed",
    "train.data": "dataset data_set corpus",
    "eval.every": "eval_interval eval_every val_check_interval interval eval_steps evaluation_interval",
    "eval.tokens": "eval_iters eval_batches eval_tokens val_tokens limit_val_batches",
    "checkpoint.every": "save_every save_interval checkpoint_interval save_steps",
    "train.eval": "evaluation validation val",
    # caps, search
    "spec.caps": "budget budgets limits limit constraints max",
    **{f"caps.{name}": measure.aliases for name, measure in MEASURES.items() if measure.aliases},
    "search.objectives": "objective goal goals metric metrics target targets",
    "search.trials": "n_trials num_trials max_trials samples num_samples budget",
    "search.time_limit": "timeout time time_budget max_time",
    "search.sampler": "algorithm search_alg strategy method",
    "search.rungs": "pruner pruning fidelities milestones asha halving",
    "search.keep": "eta reduction_factor keep_fraction",
    "search.baselines": "baseline references reference compare",
    "search.finalists": "n_finalists top_n best",
    "search.seeds": "n_seeds repeats num_seeds",
    "metric.accuracy": "acc top1 val_accuracy eval_accuracy test_accuracy val_acc",
    "metric.loss": "val_loss eval_loss test_loss validation_loss train_loss ce cross_entropy nll "
    "perplexity ppl",
    "metric.bits_per_byte": "bpb bpc bits_per_char",
    **{f"metric.{name}": measure.aliases for name, measure in MEASURES.items() if measure.aliases},
    **{
        f"{owner}.{kind.key}": kind.key_aliases for kind in map(kind_of, all_wiring()) for owner in kind.owner
    },
}
"""The names of fields here, and the names that other libraries give them."""

NOTES: dict[str, str] = {
    "batch_size": "batches are counted in tokens: train.batch_tokens is sequences times their length",
    "micro_batch_size": "a micro-batch is train.batch_tokens divided by train.accumulate",
    "max_steps": "training is counted in tokens: train.tokens is steps times train.batch_tokens",
    "max_iters": "training is counted in tokens: train.tokens is steps times train.batch_tokens",
    "total_steps": "training is counted in tokens: train.tokens is steps times train.batch_tokens",
    "num_train_steps": "training is counted in tokens: train.tokens is steps times train.batch_tokens",
    "defaults": "a spec takes over another one by extends",
    "inherits": "a spec takes over another one by extends",
    "epochs": "training is counted in tokens: train.tokens",
    "num_epochs": "training is counted in tokens: train.tokens",
    "max_epochs": "training is counted in tokens: train.tokens",
    "warmup_steps": "train.schedule.warmup is a share of the steps, such as 0.05",
    "warmup_iters": "train.schedule.warmup is a share of the steps, such as 0.05",
    "mlp_ratio": "feed_forward.hidden is the width between the layers itself, such as ${4 * w} with `let`",
    "expansion": "feed_forward.hidden is the width between the layers itself, such as ${4 * w} with `let`",
    "causal": "attention is causal, and there is no field for it",
    "attention_dropout": "there is no dropout of attention weights; model.dropout is that of blocks' outputs",
    "attn_dropout": "there is no dropout of attention weights; model.dropout is that of blocks' outputs",
    "attn_pdrop": "there is no dropout of attention weights; model.dropout is that of blocks' outputs",
    "norm_eps": "eps is fixed: 1e-6 of RMSNorms, 1e-5 of LayerNorms",
    "rmsnorm": "norms are RMSNorms, unless model.norm_type is layer; `norm` of a stage says where they are",
    "rms": "model.norm_type says what norms are, rms or layer; `norm` says where they are",
    "rms_norm": "norms are RMSNorms, unless model.norm_type is layer; `norm` of a stage says where they are",
    "init": "initialization is fixed, and there is no field for it",
    "init_std": "initialization is fixed, and there is no field for it",
    "initializer_range": "initialization is fixed, and there is no field for it",
    "adam_eps": "AdamW's epsilon is fixed",
    "eps": "AdamW's epsilon is fixed",
    "min_lr": "the rate falls to 0 in train.schedule.decay",
    "tokenizer": "`composer data build --tokenizer` tokenizes beforehand; the task text reads bytes",
    "act_threshold": "tokens halt by `halt: {act: 1e-2, threshold: 0.99}` of a stage",
    "label_smoothing": "there is no label smoothing",
    "compile": "`composer train --torch-compile on` compiles",
    "torch_compile": "`composer train --torch-compile on` compiles",
    "flash_attention": "kernels are chosen by themselves; see `composer compile`",
    "gradient_checkpointing": "recomputation follows from caps.train_memory",
    "activation_checkpointing": "recomputation follows from caps.train_memory",
    "recompute": "recomputation follows from caps.train_memory",
    "logger": "`composer train --logger csv` logs; also tensorboard, wandb and mlflow",
    "wandb": "`composer train --logger wandb` logs there",
    "output_dir": "set the run folder with `composer train --out DIR`",
    "out_dir": "set the run folder with `composer train --out DIR`",
    "alibi": "positions are rotary, learned (model.positions), or none with rope: false; there is no ALiBi",
}
"""Notes on words that are no other name of a field: of another unit, or of features that do not exist."""

VALUES: dict[str, str] = {
    "feed_forward.activation=swiglu": "silu swish glu gated reglu",
    "feed_forward.activation=gelu_tanh": "gelu_new gelu_fast gelu_pytorch_tanh quick_gelu",
    "feed_forward.activation=relu2": "squared_relu relu_squared",
    "model.norm_type=rms": "rmsnorm rms_norm",
    "model.norm_type=layer": "layernorm layer_norm ln",
    "model.positions=learned": "absolute wpe embedding",
    "train.precision=bf16-mixed": "bf16 bfloat16 bf16_mixed mixed amp",
    "train.precision=32": "fp32 float32 full 32_true f32",
    "depth_attention.span=inclusive": "all full causal",
    "depth_attention.span=exclusive": "past strict previous",
    "expert_attention.depth_code=rotary": "rope sine sinusoidal",
    "expert_attention.depth_code=bias": "learned embedding additive",
    "train.strategy=fsdp": "fsdp2 zero zero3 deepspeed sharded",
    "train.strategy=ddp": "data_parallel dp",
    "search.sampler=gp": "bayesian bayes gaussian_process botorch bo",
    "search.sampler=tpe": "optuna hyperopt bohb",
    "search.sampler=evolution": "genetic regularized_evolution ea cmaes",
    "search.sampler=nsga2": "nsga nsgaii nsga3",
    "search.sampler=random": "uniform grid",
    **{
        f"{owner}.{option.key}={option.name}": option.aliases
        for option in all_wiring()
        for owner in option.owner
    },
}
"""Other words for the values of a field, as `section.key=value`."""
