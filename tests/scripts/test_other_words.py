"""What scripts other than those of training say of words that they don't know: one line."""

import pytest
from helpers import script_error


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(script, *words):
    (line,) = script_error(f"{script}.py", *words).splitlines()
    program, _, said = line.partition(": error: ")
    assert program in (f"{script}.py", " ".join([f"{script}.py", *words[:1]]))  # or of a command
    return said


@pytest.mark.parametrize(
    ("script", "word", "flag"),
    [
        ("predict", "--model", "--model_name_or_path"),
        ("predict", "--checkpoint=x.pth", "--model_name_or_path"),
        ("predict", "--batch-size", "--batch_size"),
        ("predict", "--per_device_eval_batch_size", "--batch_size"),
        ("predict", "--bs", "--batch_size"),
        ("predict", "--workers", "--num_workers"),
        ("predict", "--dataloader_num_workers=2", "--num_workers"),
        ("predict", "--out", "--output"),
        ("predict", "-o", "--output"),
        ("predict", "--output_dir", "--output"),
        ("predict", "--no_cuda", "--use_cpu"),
        ("run_eval", "--train_dir", "--validation_dir"),
        ("run_eval", "--data", "--validation_dir"),
        ("run_eval", "--batch-size", "--batch_size"),
        ("run_eval", "--validation_split", "--split"),
        ("run_eval", "--outptu", "--output"),
        ("extract_features", "--data_dir", "--train_dir"),
        ("extract_features", "--pooling", "--features"),
        ("extract_features", "--plot", "--picture"),
        ("reconstruct", "--model", "--model_name_or_path"),
        ("reconstruct", "--masking", "--mask"),
        ("reconstruct", "--random_seed", "--seed"),
        ("reconstruct", "--out", "--output"),
        ("prepare_dataset", "--input", "--train_dir"),
        ("prepare_dataset", "--workers", "--num_proc"),
        ("prepare_dataset", "--size", "--shortest_edge"),
        ("prepare_dataset", "--out", "--output_dir"),
        ("convert_checkpoint", "--model", "--name"),
        ("convert_checkpoint", "--ckpt", "--checkpoint"),
        ("convert_checkpoint", "--model_name_or_path", "--checkpoint"),
        ("convert_checkpoint", "--img_size", "--image_size"),
        ("export", "--format", "--to"),
        ("export", "--model", "--model_name_or_path"),
        ("export", "--output", "--output_dir"),
        ("publish", "--hub_model_id", "--repo_id"),
        ("publish", "--dry-run", "--dry_run"),
        ("publish", "--checkpoint", "--model_name_or_path"),
        ("app", "--models", "--model_name_or_path"),
        ("app", "--spaces", "--space"),
    ],
)
def test_words_of_other_programs(script, word, flag):
    """Although what is required is missing, which would be said else."""
    assert refused(script, word, "3") == f"unknown argument {word!r}; did you mean {flag}?"


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["input", "--train_dir", "x"], "--data"),
        (["input", "--num_workers", "2"], "--workers"),
        (["train", "--batch_size", "2"], "--batch"),
        (["train", "--model", "base"], "--size"),
        (["plan", "--num_gpus", "2"], "--gpus"),
        (["plan", "--num_train_epochs", "2"], "--epochs"),
        (["--outputs", "x", "train"], None),
    ],
)
def test_words_of_benchmarks(words, flag):
    unknown = next(word for word in words if word.startswith("--"))
    meant = f"; did you mean {flag}?" if flag else ""
    said = refused("benchmark", *words)
    assert said == f"unknown argument {unknown!r}{meant}"


@pytest.mark.parametrize("script", ["predict", "reconstruct", "extract_features"])
@pytest.mark.parametrize("word", ["--input", "--image", "-i", "--source"])
def test_images_are_named_without_a_flag(script, word):
    said = refused(script, word, "bird.jpg")
    if script == "extract_features":
        assert said == f"unknown argument {word!r}; did you mean --train_dir?"
    else:
        assert said == (
            f"unknown argument {word!r}; images are named without a flag: {script}.py IMAGE …"
        )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["predict", "--device=cpu"], "CUDA_VISIBLE_DEVICES= none"),
        (["reconstruct", "--mask_ratio=0.5"], "only pre-training is told"),
        (["publish", "--private"], "a repository is private, but with --public"),
        (["app", "--port=7000"], "GRADIO_SERVER_PORT=7861"),
        (["export", "runs/mine", "--lr=1", "--model=x"], "did you mean --model_name_or_path?"),
    ],
)
def test_what_is_no_flag(words, said):
    line = refused(*words)
    assert line.startswith("unknown argument ")
    assert said in line


def test_words_that_no_flag_takes():
    words = ["--model_name_or_path", "x", "--output_dir", "y", "runs/mine", "z"]
    assert refused("export", *words) == "unknown argument 'runs/mine'; unknown argument 'z'"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["export", "--model_name_or_path=x", "--output_dir=y", "--to=onx"],
            "to is 'onx'; it must be one of transformers, onnx, torch; did you mean onnx?",
        ),
        (
            ["export", "--model_name_or_path=x", "--output_dir=y", "--as=beit"],
            "as is 'beit'; it must be one of vit, vit_mae",
        ),
        (
            ["benchmark", "trian"],
            "command is 'trian'; it must be one of input, train, infer, memory, gpu, plan, "
            "quality; did you mean train?",
        ),
        (["predict"], "the following arguments are required: IMAGE, --model_name_or_path"),
        (
            ["predict", "--model_name_or_path=x", "a.png", "--batch_size=-3"],
            "argument --batch_size: it is '-3'; it must be a whole number from 1 to 2,147,483,647",
        ),
    ],
)
def test_values(words, said):
    assert refused(*words) == said
