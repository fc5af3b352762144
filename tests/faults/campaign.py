"""What all tries have in common: a tiny run, what is told of a run's end, how runs are compared.

A try ends well, or in one of these: work is lost, it hangs, its numbers differ from those of the
run that nobody disturbed, or it is unclear what happened. tests/faults/conftest.py counts them.
"""

import contextlib
import json
import random
import time
from pathlib import Path

import torch
from forked_scripts import ForkedRun
from safetensors.torch import load_file


# for a loaded machine; alone a run takes some seconds
SECONDS = 300

STEPS = 12
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 64,
}
MODEL = ["--image_size=16", "--patch_size=8", f"--config_overrides={json.dumps(SIZES)}"]
RUN = [
    *MODEL,
    "--dataset_name=digits",
    f"--max_steps={STEPS}",
    "--warmup_epochs=0.05",
    "--logging_steps=1",
    "--eval_strategy=steps",
    "--eval_steps=6",
    "--per_device_eval_batch_size=180",
    "--save_strategy=steps",
    "--save_steps=4",
    "--save_total_limit=2",
    "--report_to=none",
    "--use_cpu",
    "--disable_tqdm",
]
RESUME = "--resume_from_checkpoint=last"


class FaultError(AssertionError):
    """How a try ended; `kind` is a column of the table."""

    kind: str


class LostError(FaultError):
    """Work is lost: steps that a whole checkpoint held, or the result."""

    kind = "lost"


class HungError(FaultError):
    """It doesn't end."""

    kind = "hung"


class DifferentError(FaultError):
    """Losses or weights differ from those of the run that nobody disturbed."""

    kind = "different"


class UnclearError(FaultError):
    """A traceback, or no line that says what happened and what to do."""

    kind = "unclear"


def flags(output_dir, processes=1):
    """Of the tiny run, 16 images an update."""
    return [*RUN, f"--per_device_train_batch_size={16 // processes}", f"--output_dir={output_dir}"]


def finish(name, arguments, processes=1, seconds=SECONDS):
    """Runs scripts/NAME to its end: (status, stdout, stderr).

    Raises:
        HungError: it takes longer.
    """
    with ForkedRun(name, list(map(str, arguments)), processes) as run:
        try:
            return run.wait(seconds), *run.texts()
        except TimeoutError as error:
            raise HungError(f"{name}: {error}\n" + "\n".join(run.texts())) from error


def kill_at(name, arguments, moment, processes=1, seconds=SECONDS):
    """Starts scripts/NAME and kills it, hard, when `moment()` is true, unless it has ended."""
    with ForkedRun(name, list(map(str, arguments)), processes) as run:
        deadline = time.monotonic() + seconds
        while not (moment() or run.has_ended()):
            if time.monotonic() > deadline:
                raise HungError(f"{name}\n" + "\n".join(run.texts()))
            time.sleep(0.0005)


def resume(output_dir, whole, *more, processes=1):
    """Goes on with the tiny run to its end, and compares it with the one nobody disturbed.

    Returns:
        stdout and stderr.

    Raises:
        UnclearError, LostError, DifferentError, HungError
    """
    arguments = [*flags(output_dir, processes), RESUME, *more]
    status, stdout, stderr = finish("run_mae.py", arguments, processes)
    if status:
        check_explained("run_mae.py", status, stderr)
        raise LostError(f"nothing to go on from: {stderr}")
    compare(output_dir, whole)
    return stdout, stderr


def compare(output_dir, whole):
    """Compares two runs of the same flags, bit for bit.

    Raises:
        LostError: steps or the model are missing.
        DifferentError: a loss, an evaluation or a weight isn't the same.
    """
    ours, expected = read_history(output_dir), read_history(whole)
    if [step for step, *_ in ours] != [step for step, *_ in expected]:
        raise LostError(f"steps {[step for step, *_ in ours]}")
    for entry, wanted in zip(ours, expected):
        if entry != wanted:
            raise DifferentError(f"{entry}, not {wanted}")
    weights, wanted = (load_file(folder / "model.safetensors") for folder in (output_dir, whole))
    for name, tensor in wanted.items():
        if not torch.equal(tensor, weights[name]):
            raise DifferentError(f"{name} of the model")


def read_history(folder):
    """What a run logged, but for times: (step, key, value)."""
    path = Path(folder) / "trainer_state.json"
    if not path.is_file():
        raise LostError(f"no {path.name}")
    kept = []
    for entry in json.loads(path.read_text())["log_history"]:
        for key in ("loss", "grad_norm", "learning_rate", "eval_loss"):
            if key in entry:
                kept.append((entry["step"], key, entry[key]))
    return kept


def check_explained(name, status, stderr):
    """Checks that what a script said of its end is for a user: a line, and no traceback.

    Raises:
        UnclearError
    """
    lines = [line for line in stderr.splitlines() if line.strip()]
    if "Traceback (most recent call last)" in stderr:
        raise UnclearError(f"status {status}\n{stderr}")
    if status == 0:
        return
    if not lines or not lines[-1].startswith(f"{name}: "):
        raise UnclearError(f"status {status} without a line\n{stderr}")


def newest_step(output_dir):
    """The step of the newest folder that looks like a checkpoint, or 0."""
    steps = [0]
    with contextlib.suppress(FileNotFoundError):
        for path in Path(output_dir).glob("checkpoint-*"):
            if path.name[11:].isdecimal():
                steps.append(int(path.name[11:]))
    return max(steps)


def draw(seed, values, count):
    """Some of the values, always the same ones."""
    values = list(values)
    return random.Random(seed).sample(values, min(count, len(values)))
