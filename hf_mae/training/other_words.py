# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Words of other programs' command lines: what they are called here."""

from collections.abc import Collection

from ..models.near_names import did_you_mean


# our flags, of which a script has one at most → what timm, the MAE authors' code, Ultralytics,
# Lightning and others call them; each of them is a word for the others, too
_CALLED_ELSEWHERE = {
    "per_device_train_batch_size batch_size batch": "bs b train_batch_size mini_batch_size "
    "batch_size_per_gpu per_gpu_batch_size samples_per_gpu",
    "per_device_eval_batch_size batch_size": "eval_batch_size val_batch_size test_batch_size "
    "validation_batch_size",
    "learning_rate": "lr lr0 learningrate rate peak_lr max_lr",
    "base_learning_rate": "blr base_lr lr_base",
    "min_learning_rate": "min_lr lr_min lrf final_lr end_lr eta_min",
    "num_train_epochs epochs": "epoch num_epochs n_epochs max_epochs total_epochs ep e",
    "max_steps": "steps iterations iters max_iter max_iters num_steps total_steps train_iters",
    "warmup_epochs": "warmup warmup_ratio warmup_proportion warmup_iters num_warmup_steps warmup_t",
    "weight_decay": "wd decay l2",
    "gradient_accumulation_steps": "accum_iter accum accumulate grad_accum grad_accum_steps "
    "accumulate_grad_batches gradient_accumulation update_freq",
    "max_grad_norm": "clip_grad clip clip_norm grad_clip gradient_clip_val",
    "bf16": "amp precision mixed_precision half use_amp fp32",
    "use_cpu": "no_cuda cpu no_gpu force_cpu",
    "torch_compile": "compile torchcompile",
    "gradient_checkpointing": "grad_checkpointing checkpointing use_checkpoint",
    "dataloader_num_workers num_workers num_proc workers": "j n_workers loader_workers cpus nproc "
    "processes",
    "optim": "opt optimizer",
    "layer_decay": "llrd layer_wise_decay",
    "train_dir images data validation_dir": "data_path data_dir datadir input input_dir inputs "
    "image image_dir image_path img folder root source src file files path imagenet_path "
    "train_data train_path dataset_path dataset_dir i",
    "validation_dir": "val_dir val_path val_data test_dir eval_dir validation_data valid_dir",
    "dataset_name": "dataset dataset_id hf_dataset",
    "train_val_split": "val_split validation_split_percentage holdout val_fraction split_ratio",
    "split": "eval_split test_split validation_split train_split",
    "label_column": "labels label_col target_column class_column",
    "output_dir output": "out o out_dir outdir out_file output_file output_path save save_dir "
    "save_path log_dir logdir workdir work_dir exp_dir checkpoint_dir default_root_dir dest csv",
    "resume_from_checkpoint": "resume resume_from continue continue_training load ckpt_path",
    "model_name_or_path checkpoint": "pretrained finetune ckpt weights pretrained_weights init "
    "init_from load_from model_path initial_checkpoint from_pretrained model_dir m",
    "size": "model arch architecture variant model_size backbone",
    "name model_name_or_path runs": "model model_name arch architecture models",
    "mask_ratio": "mask masking mask_prob masking_ratio mask_probability",
    "mask_strategy": "mask_type masking_strategy mask_mode block_mask blockwise",
    "mask_block_size": "block_size mask_patch_size",
    "decoder_type": "decoder cross_decoder cross_attention",
    "prediction_ratio": "pred_ratio kept_mask_ratio predict_ratio",
    "norm_pix_loss": "norm_pix norm_pixels normalize_target normalise_target",
    "image_size": "img_size imgsz input_size imagesize size_px crop_size",
    "patch_size": "patch patchsize patch_px",
    "num_channels": "in_chans channels in_channels num_bands",
    "image_mean": "mean",
    "image_std": "std",
    "drop_path_rate": "drop_path stochastic_depth droppath",
    "pooling": "global_pool pool cls_token gap",
    "auto_augment": "aa augment randaugment",
    "random_erasing": "reprob re_prob erasing",
    "label_smoothing_factor": "smoothing label_smoothing",
    "class_weights": "class_weight weighted_loss loss_weights",
    "class_sampling": "balanced_sampling oversample weighted_sampler",
    "report_to": "wandb use_wandb tensorboard logger tracker trackio mlflow",
    "run_name": "name experiment exp_name wandb_name",
    "logging_steps": "print_freq log_interval log_every log_steps",
    "save_steps": "save_freq save_every checkpoint_interval save_interval save_period",
    "eval_steps": "eval_freq eval_every val_interval eval_interval",
    "push_to_hub": "push upload",
    "seed": "random_seed manual_seed random_state",
    "features": "pool pooling token layer feature_type",
    "picture": "plot draw figure",
    "shortest_edge": "size resize resolution image_size img_size short_side short_edge max_size",
    "quality": "jpeg_quality",
    "images_per_shard": "shard_size samples_per_shard max_shard_size",
    "to": "format target onnx torch",
    "repo_id": "repo repository hub_model_id hub_id repo_name model_id",
    "widget_images": "widget examples",
    "num_attention_heads": "heads num_heads n_heads",
    "step_rate": "rate train_rate",
    "gpus": "num_gpus n_gpu ngpu devices num_processes world_size",
    "compile": "torch_compile",
}
_PROCESSES = (
    "how many processes and GPUs there are is told to the launcher: accelerate launch "
    "--num_processes N scripts/…"
)
_CLASSES = "the classes are those of the data: a folder each, or a column of labels"
_SERVER = (
    "scripts/app.py is told by the environment: GRADIO_SERVER_PORT=7861, GRADIO_SERVER_NAME=0.0.0.0"
)
# what is no flag, where none of a script's own is meant
_NOT_HERE = {
    **dict.fromkeys(("gpus", "gpu", "num_gpus", "n_gpu", "ngpu", "devices"), _PROCESSES),
    **dict.fromkeys(("nproc_per_node", "num_processes", "world_size"), _PROCESSES),
    **dict.fromkeys(("nodes", "num_nodes", "nnodes", "dist_url", "distributed"), _PROCESSES),
    **dict.fromkeys(("num_classes", "nb_classes", "n_classes", "classes", "num_labels"), _CLASSES),
    "mask_ratio": "only pre-training is told; scripts/app.py has a slider for it",
    "device": "a GPU is taken if there is one; CUDA_VISIBLE_DEVICES=1 before the command takes the "
    "second, and CUDA_VISIBLE_DEVICES= none",
    "private": "a repository is private, but with --public",
    **dict.fromkeys(("port", "host", "server_name", "server_port"), _SERVER),
    "eval": "scripts/run_eval.py measures a model that is trained",
    "evaluate": "scripts/run_eval.py measures a model that is trained",
    "config": "a recipe is named without a flag: scripts/run_mae.py RECIPE.yaml",
    "recipe": "a recipe is named without a flag: scripts/run_mae.py RECIPE.yaml",
    "cfg": "a recipe is named without a flag: scripts/run_mae.py RECIPE.yaml",
    "patience": "no run ends early; --num_train_epochs says how long it takes, and "
    "--load_best_model_at_end takes the best",
}


def _called_here() -> dict[str, list[str]]:
    """Word → the flags that it may mean, in the order of the table."""
    meant: dict[str, list[str]] = {}
    for flags, words in _CALLED_ELSEWHERE.items():
        for word in [*flags.split(), *words.split()]:
            meant.setdefault(word, []).extend(flags.split())
    return meant


CALLED_HERE = _called_here()


def hint(word: str, names: Collection[str], prefix: str = "") -> str:
    """Says of a name that is unknown which is meant, to end a message with.

    Args:
        word: As it was given, with its dashes or without.
        names: Those that there are.
        prefix: Stands before a name, as `--`.

    Returns:
        The word's meaning in other programs, or the nearest name; empty if there is neither.

    Example:

    >>> hint("--lr", ["learning_rate", "layer_decay"], prefix="--")
    '; did you mean --learning_rate?'
    """
    name = word.lstrip("-").partition("=")[0].replace("-", "_").lower()
    called = [flag for flag in CALLED_HERE.get(name, []) if flag in names]
    if called:
        return f"; did you mean {prefix}{called[0]}?"
    if name in _NOT_HERE:
        return f"; {_NOT_HERE[name]}"
    return did_you_mean(name, names, prefix)
