"""Names that other tools give to settings and commands, and ours: the only such table, for flags, `--set` and recipes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_SETTINGS: Final[Mapping[str, str]] = {
    "optimizer.lr": "learning_rate base_lr init_lr initial_learning_rate peak_lr max_lr",
    "optimizer.name": "optim optimizer_name optimizer_type",
    "optimizer.betas": "adam_beta1 adam_beta2 beta1 beta2 adam_betas",
    "optimizer.eps": "adam_epsilon adam_eps epsilon",
    "optimizer.weight_decay": "wd decay",
    "schedule.name": "lr_scheduler_type lr_scheduler scheduler lr_schedule",
    "schedule.warmup_steps": "warmup warmup_ratio num_warmup_steps warmup_iters lr_warmup_steps",
    "schedule.min_lr": "lr_end min_learning_rate final_lr",
    "clip_norm": "max_grad_norm gradient_clip_val gradient_clipping grad_clip clip_grad_norm clip",
    "epochs": "num_train_epochs num_epochs n_epochs max_epochs epoch total_epochs",
    "max_steps": "num_train_steps num_steps total_steps max_train_steps max_iters train_steps iterations iters steps",
    "max_time": "max_hours time_limit",
    "batch_size": "per_device_train_batch_size per_gpu_train_batch_size train_batch_size global_batch_size batchsize bs "
    "per_device_eval_batch_size eval_batch_size total_batch_size",
    "micro_batch_size": "gradient_accumulation_steps grad_accum accumulate_grad_batches micro_batch",
    "precision": "bf16 fp16 fp32 torch_dtype dtype mixed_precision amp half",
    "compile": "torch_compile use_compile",
    "best_by": "metric_for_best_model load_best_model_at_end monitor",
    "patience": "early_stopping_patience early_stopping",
    "eval_every": "eval_steps evaluation_strategy eval_strategy eval_interval val_check_interval validation_steps",
    "save_every": "save_steps save_strategy save_interval checkpointing_steps checkpoint_every",
    "keep_checkpoints": "save_total_limit save_top_k max_checkpoints",
    "log_every": "logging_steps log_steps log_interval log_every_n_steps",
    "model": "model_name_or_path model_name pretrained_model_name_or_path pretrained_model base_model model_path "
    "model_id checkpoint ckpt model_dir arch architecture",
    "tokenizer": "tokenizer_name tokenizer_name_or_path tokenizer_path",
    "out": "output_dir out_dir output_path save_dir save_path checkpoint_dir default_root_dir target_dir destdir",
    "output": "output_file out_file predictions_file",
    "data": "train_file data_path data_dir dataset dataset_name dataset_path train_data training_data train_dataset",
    "inputs": "input_files input_file input train_file data_path data_dir dataset dataset_name files corpus trainpref",
    "input": "input_file infile prompts prompt_file prompts_file test_file",
    "max_length": "max_seq_length max_seq_len model_max_length seq_length seq_len sequence_length cutoff_len max_len",
    "block_size": "max_seq_length seq_length seq_len sequence_length chunk_size context_length context",
    "columns": "text_column column_mapping remove_columns column_names text_field dataset_text_field",
    "workers": "num_workers preprocessing_num_workers num_proc n_jobs threads jobs",
    "splits.validation": "val_size val_split validation_split validation_split_percentage valid_size eval_ratio dev_size",
    "splits.test": "test_size test_split test_ratio",
    "clean.lowercase": "do_lower_case lowercase lower",
    "adapter": "use_lora lora use_peft peft adapter_type finetuning_type",
    "adapter.rank": "lora_r lora_rank r",
    "adapter.alpha": "lora_alpha",
    "adapter.dropout": "lora_dropout",
    "adapter.targets": "lora_target_modules target_modules lora_target lora_modules",
    "model.layers": "n_layer n_layers num_layers num_hidden_layers",
    "model.heads": "n_head n_heads num_heads num_attention_heads",
    "model.hidden": "n_embd hidden_size d_model hidden_dim embed_dim dim",
    "model.inner": "intermediate_size ffn_dim d_ff n_inner",
    "model.context": "max_position_embeddings n_positions context_length",
    "model.dropout": "hidden_dropout_prob attention_dropout",
    "processes": "nproc_per_node num_processes num_gpus gpus n_gpu ngpus nproc devices world_size",
    "machines": "nnodes num_nodes num_machines nodes",
    "machine_rank": "node_rank rank local_rank",
    "main_address": "master_addr main_process_ip rdzv_endpoint master_port main_process_port",
    "max_new_tokens": "max_tokens max_length max_gen_len max_completion_tokens max_out_len num_predict n_predict",
    "temperature": "temp do_sample sample",
    "num_beams": "beam_size beam beams beam_width",
    "num_samples": "num_return_sequences n best_of nbest",
    "stop": "stop_sequences stop_strings eos stop_token",
    "repetition_penalty": "repeat_penalty frequency_penalty presence_penalty no_repeat_ngram_size",
    "metric": "metrics eval_metric metric_name tasks",
    "predictions": "hypothesis hypotheses hyp hyps system prediction_file",
    "references": "reference refs ref targets gold labels_file",
    "limit": "max_eval_samples max_samples num_examples num_fewshot_samples",
    "require": "threshold min_score fail_under",
    "seed": "random_seed manual_seed random_state data_seed",
}
"""Our setting, and what others call it."""

_ADVICE: Final[Mapping[str, str]] = {
    "an accelerator is used if there is one; CUDA_VISIBLE_DEVICES selects it, and is empty for the CPU": (
        "device device_map cuda gpu use_cuda use_gpu no_cuda use_cpu cpu accelerator device_id gpu_id"
    ),
    "each is a command of its own: llmctl train, llmctl eval, llmctl generate": "do_train do_eval do_predict mode",
    "llmctl never runs code from a model folder": "trust_remote_code",
    "--force overwrites an output": "overwrite_output_dir overwrite exist_ok",
    "to continue a run: llmctl train --resume RUN": "resume_from_checkpoint resume_from ckpt_path load_checkpoint",
    "a run keeps its numbers in RUN/metrics.jsonl, its curves in RUN/plots": "report_to logging_dir use_wandb wandb log_dir",
    "several processes share the work: --processes N": "deepspeed fsdp ddp distributed strategy tensor_parallel_size",
    "weights are not quantized here; --precision bf16 takes half the memory": "load_in_4bit load_in_8bit quantization",
    "llmctl never asks": "y yes no_input non_interactive",
}

_VERBS: Final[Mapping[str, str]] = {
    "did you mean 'train'?": "finetune fine-tune fine_tune fit sft pretrain learn lora",
    "did you mean 'generate'?": "predict infer inference sample complete completion translate summarize decode interactive",
    "did you mean 'eval'?": "evaluate test score benchmark validate metrics lm_eval sacrebleu",
    "did you mean 'preprocess'?": "tokenize prepare prep process clean binarize encode build-data",
    "did you mean 'chat'?": "repl cli ask",
    "did you mean 'serve'?": "server api deploy host api_server",
    "did you mean 'merge'?": "convert export fuse quantize",
    "did you mean 'quickstart'?": "init new demo tutorial start hello",
    "did you mean 'list'?": "ls models tasks datasets metrics",
    "did you mean 'show'?": "info describe inspect view cat",
    "did you mean 'runs'?": "history experiments jobs ps logs",
    "did you mean 'run'?": "pipeline exec execute workflow make",
    "did you mean 'compare'?": "sweep search tune bench",
    "did you mean 'doctor'?": "check env diagnose status",
    "did you mean --version?": "version",
    "did you mean --help?": "help man usage",
    "did you mean 'completions'?": "completion autocomplete",
}


def _inverted(table: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for ours, theirs in table.items():
        for name in theirs.split():
            found.setdefault(_spelled(name), []).append(ours)
    return found


def _spelled(name: str) -> str:
    return name.lower().lstrip("-").replace("-", "_")


def settings_called(name: str) -> list[str]:
    """Our settings, as full paths, that another tool calls `name`; a verb need not have all of them."""
    return _inverted(_SETTINGS).get(_spelled(name), [])


def advice_on(name: str) -> str | None:
    """What to do instead of an option of another tool that llmctl has no setting for."""
    return next(iter(_inverted(_ADVICE).get(_spelled(name), [])), None)


def verb_for(name: str) -> str | None:
    """A hint: the verb that does what another tool calls `name`."""
    return next(iter(_inverted(_VERBS).get(_spelled(name), [])), None)
