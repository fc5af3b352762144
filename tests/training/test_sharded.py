"""DDP and FSDP2 on two processes (gloo) compute what one process computes, every parameter taking
part."""

import json
import math
import subprocess
import sys

import pytest
from helpers import TINY, script_environment


PROGRAM = """
import json, os, sys
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from hf_mae import MAEConfig, MAEForPreTraining

kind, tiny = sys.argv[1], json.loads(sys.argv[2])
rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
torch.manual_seed(0)
model = MAEForPreTraining(MAEConfig(**tiny)).train()
images, noise = torch.randn(3, 4, 3, 32, 32), torch.rand(3, 4, 16)
if kind != "plain":
    dist.init_process_group("gloo")
if kind == "ddp":
    model = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=False)
if kind == "fsdp":
    for layer in [*model.vit.layers, *model.decoder.decoder_layers]:
        fully_shard(layer)
    fully_shard(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
losses = []
for batch, mask_noise in zip(images, noise):
    mine = slice(rank * 4 // world, (rank + 1) * 4 // world)
    loss = model(batch[mine], noise=mask_noise[mine]).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    total = loss.detach().clone()
    if world > 1:
        dist.all_reduce(total)
    losses.append(total.item() / world)
if rank == 0:
    print("losses", json.dumps(losses), flush=True)
if world > 1:
    dist.barrier()
os._exit(0)  # the tear-down of gloo's threads at exit can abort, which is none of the test's business
"""


# the loss is NaN for one sample, which one of the two processes gets in the third update
POISONED = """
import json, os, sys
import numpy as np
import torch
from hf_mae import MAEConfig, MAEForPreTraining, MAEImageProcessor
from hf_mae.errors import NonFiniteLossError
from hf_mae.data.samples import ImageSamples
from hf_mae.data.sources import load_image_dataset
from hf_mae.training.pretraining import MAETrainer
from hf_mae.training.arguments import MAETrainingArguments
from hf_mae.data.transforms import PretrainingTransform

class Poisoned(MAEForPreTraining):
    def forward(self, pixel_values, noise=None, **kwargs):
        outputs = super().forward(pixel_values, noise=noise, **kwargs)
        if any(torch.equal(row, self.poison) for row in noise):
            outputs.loss = outputs.loss * float("nan")
        return outputs

nonfinite, tiny = sys.argv[1], json.loads(sys.argv[2])
args = MAETrainingArguments(
    output_dir=sys.argv[3], use_cpu=True, nonfinite=nonfinite, per_device_train_batch_size=8, max_steps=6, warmup_epochs=0,
    logging_steps=1, eval_strategy="no", save_strategy="no", report_to="none", disable_tqdm=True,
)
torch.manual_seed(0)
model = Poisoned(MAEConfig(**tiny))
samples = ImageSamples(load_image_dataset("digits")["train"], PretrainingTransform(model.config), 3, args.seed)
number = int(np.random.default_rng([args.seed, 0]).permutation(len(samples))[2 * 16 + 11])
model.poison = samples[number]["noise"]
trainer = MAETrainer(model, args, samples, processing_class=MAEImageProcessor.from_model_config(model.config))
said = "nothing"
try:
    trainer.train()
except NonFiniteLossError as error:
    said = str(error)
total = sum(parameter.double().sum().item() for parameter in model.parameters())
report = [args.process_index, number, trainer.state.global_step, trainer.nonfinite.skipped, total, said]
print("report " + json.dumps(report) + chr(10), end="", flush=True)
torch.distributed.barrier()
os._exit(0)
"""


@pytest.fixture
def run(tmp_path):
    def run(program, *arguments, processes):
        path = tmp_path / "program.py"
        path.write_text(program)
        launch = (
            ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
            if processes > 1
            else []
        )
        command = [
            sys.executable,
            *launch,
            str(path),
            arguments[0],
            json.dumps(TINY),
            *arguments[1:],
        ]
        done = subprocess.run(
            command, env=script_environment(2), capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_sharded_training_equals_plain(run):
    def losses(kind):
        return json.loads(
            run(PROGRAM, kind, processes=1 if kind == "plain" else 2).split("losses", 1)[1]
        )

    expected = losses("plain")
    assert expected[2] < expected[0]
    for kind in ("ddp", "fsdp"):
        assert losses(kind) == pytest.approx(expected, abs=1e-5), kind


@pytest.mark.parametrize("nonfinite", ["raise", "skip"])
def test_a_loss_that_is_not_finite_on_one_process(run, tmp_path, nonfinite):
    stdout = run(POISONED, nonfinite, str(tmp_path / "run"), processes=2)
    first, second = sorted(
        json.loads(line[7:]) for line in stdout.splitlines() if line.startswith("report")
    )
    assert math.isfinite(first[4])
    assert first[2:5] == second[2:5]  # steps, skipped updates and weights are the same on both
    if nonfinite == "skip":
        assert (first[2], first[3]) == (6, 1)
    else:
        assert first[2] == 3  # counted, and not made
        assert "step 3 is not finite on another process" in first[5]
        assert "step 3 is not finite (training samples" in second[5]
        assert str(second[1]) in second[5]
