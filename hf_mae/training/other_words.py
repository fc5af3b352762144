# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Words of other programs' command lines: what they are called here."""

from collections.abc import Collection

from ..models.near_names import did_you_mean


# our flag → what timm, the MAE authors' code, Ultralytics, Lightning and others call it
_CALLED_ELSEWHERE = {
    "per_device_train_batch_size": "batch_size batch bs b train_batch_size mini_batch_size "
    "batch_size_per_gpu per_gpu_batch_size samples_per_gpu",
    "per_device_eval_batch_size": "eval_batch_size val_batch_size test_batch_size "
    "validation_batch_size",
    "learning_rate": "lr lr0 learningrate rate peak_lr max_lr",
    "base_learning_rate": "blr base_lr lr_base",
    "min_learning_rate": "min_lr lr_min lrf final_lr end_lr eta_min",
    "num_train_epochs": "epochs epoch num_epochs n_epochs max_epochs total_epochs ep e",
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
    "dataloader_num_workers": "workers num_workers j n_workers loader_workers cpus",
    "optim": "opt optimizer",
    "layer_decay": "llrd layer_wise_decay",
    "train_dir": "data data_path data_dir datadir input input_dir image_dir images folder root "
    "imagenet_path train_data train_path dataset_path dataset_dir",
    "validation_dir": "val_dir val_path val_data test_dir eval_dir validation_data valid_dir",
    "dataset_name": "dataset dataset_id hf_dataset",
    "train_val_split": "val_split validation_split_percentage holdout val_fraction split_ratio",
    "label_column": "labels label_col target_column class_column",
    "output_dir": "output out o out_dir outdir save_dir save_path log_dir logdir workdir work_dir "
    "exp_dir checkpoint_dir default_root_dir",
    "resume_from_checkpoint": "resume resume_from continue continue_training load ckpt_path",
    "model_name_or_path": "pretrained checkpoint finetune ckpt weights pretrained_weights init "
    "init_from load_from model_path initial_checkpoint from_pretrained model_dir",
    "size": "model arch architecture variant model_size backbone",
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
}
_PROCESSES = (
    "how many processes and GPUs there are is told to the launcher: accelerate launch "
    "--num_processes N scripts/…"
)
_CLASSES = "the classes are those of the data: a folder each, or a column of labels"
# what is no flag here
_NOT_HERE = {
    **dict.fromkeys(("gpus", "gpu", "num_gpus", "n_gpu", "ngpu", "devices"), _PROCESSES),
    **dict.fromkeys(("nproc_per_node", "num_processes", "world_size"), _PROCESSES),
    **dict.fromkeys(("nodes", "num_nodes", "nnodes", "dist_url", "distributed"), _PROCESSES),
    **dict.fromkeys(("num_classes", "nb_classes", "n_classes", "classes", "num_labels"), _CLASSES),
    "device": "a GPU is taken if there is one; --use_cpu leaves it alone, and "
    "CUDA_VISIBLE_DEVICES=1 before the command takes the second",
    "eval": "scripts/run_eval.py measures a model that is trained",
    "evaluate": "scripts/run_eval.py measures a model that is trained",
    "config": "a recipe is named without a flag: scripts/run_mae.py RECIPE.yaml",
    "recipe": "a recipe is named without a flag: scripts/run_mae.py RECIPE.yaml",
    "cfg": "a recipe is named without a flag: scripts/run_mae.py RECIPE.yaml",
    "patience": "no run ends early; --num_train_epochs says how long it takes, and "
    "--load_best_model_at_end takes the best",
}


def _called_here() -> dict[str, str]:
    names = {}
    for name, words in _CALLED_ELSEWHERE.items():
        names.update(dict.fromkeys(words.split(), name))
    return names


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
    if name in _NOT_HERE:
        return f"; {_NOT_HERE[name]}"
    called = CALLED_HERE.get(name)
    if called in names:
        return f"; did you mean {prefix}{called}?"
    return did_you_mean(name, names, prefix)
