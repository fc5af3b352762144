"""DDP and FSDP2 on two processes (gloo) compute what one process computes, every parameter taking
part."""

import json
import math
import subprocess
import sys

import pytest
from helpers import ROOT, TINY, TINY_FLAGS, run_script, script_environment, train_jobs
from safetensors.torch import load_file

from hf_mae import MAEForPreTraining, load_model


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


# whole trainings ---------------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path):
    """A job of `elastic_runs.py`, of four updates, saved after two."""

    def job(name, kind, resumed=None, **options):
        arguments = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
        if kind == "pretrain":
            arguments["resolution_schedule"] = None
        if resumed:
            arguments["resume_from_checkpoint"] = str(tmp_path / resumed / "checkpoint-2")
        arguments |= options.pop("arguments", {})
        folder = str(tmp_path / name)
        return {"name": name, "kind": kind, "folder": folder, "arguments": arguments, **options}

    return job


def test_trainers_on_sharded_models(job, tmp_path):
    """Their losses are those of DDP, and their folders as good as its."""
    skipping = {"nonfinite": "skip"}
    full, sharded = {"sharded": "FULL_STATE_DICT"}, {"sharded": "SHARDED_STATE_DICT"}
    jobs = [
        job("pretrain", "pretrain"),
        job("pretrain full", "pretrain", **full),
        job("pretrain sharded", "pretrain", **sharded),
        job("pretrain full resumed", "pretrain", resumed="pretrain full", **full),
        job("pretrain sharded resumed", "pretrain", resumed="pretrain sharded", **sharded),
        job("finetune", "finetune"),
        job("finetune sharded", "finetune", **sharded),
        job("probe", "probe"),
        job("probe sharded", "probe", **sharded),
        job("probe resumed", "probe", resumed="probe sharded", **sharded),
        job("cached", "cached"),
        job("cached sharded", "cached", **sharded),
        job("poisoned", "pretrain", poisoned=True, arguments=skipping),
        job("poisoned sharded", "pretrain", poisoned=True, arguments=skipping, **sharded),
        job("unlike DDP", "pretrain", resumed="pretrain", **sharded),
    ]
    reports = train_jobs(jobs, processes=2)
    refused = reports.pop("unlike DDP")["refused"]
    assert "this run is sharded by --fsdp with state_dict_type SHARDED_STATE_DICT" in refused
    assert "was not sharded; go on as before" in refused
    for name, report in reports.items():
        expected = reports[name.split()[0]]
        assert report["losses"] == pytest.approx(expected["losses"], rel=1e-6), name
        assert report["skipped"] == ("poisoned" in name), name
        is_sharded = any(job["name"] == name and "sharded" in job for job in jobs)
        assert (report["sharded"] is not None) == is_sharded, name
        assert_same_folders(tmp_path / name, tmp_path / name.split()[0])


def assert_same_folders(folder, expected):
    names = ["config.json", "preprocessor_config.json"]
    for place in ("", "checkpoint-4"):
        for name in names:
            assert (folder / place / name).read_text() == (expected / name).read_text()
        weights = load_file(folder / place / "model.safetensors")
        others = load_file(expected / "model.safetensors")
        assert weights.keys() == others.keys()
        for key, tensor in weights.items():
            assert tensor.allclose(others[key], rtol=1e-5, atol=1e-7), (folder, key)


SHARDED_SCRIPT = """
import runpy, sys
from accelerate import PartialState
from accelerate.utils import DistributedType
from hf_mae.training.sharding import ShardingTrainer

plain = ShardingTrainer.create_accelerator_and_postprocess
def create(trainer):
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_HPU
    plain(trainer)
ShardingTrainer.create_accelerator_and_postprocess = create
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_script_on_a_sharded_model(tmp_path, make_trainer):
    program, output_dir = tmp_path / "program.py", tmp_path / "run"
    program.write_text(SHARDED_SCRIPT)
    flags = ["--dataset_name=digits", "--max_steps=2", "--warmup_epochs=0", "--use_cpu"]
    flags += ["--fsdp", '--fsdp_config={"state_dict_type": "SHARDED_STATE_DICT"}', *TINY_FLAGS]
    flags += ["--save_strategy=steps", "--save_steps=1", f"--output_dir={output_dir}"]
    stdout = run_script(program, ROOT / "scripts" / "run_mae.py", *flags, processes=2)
    assert "the model sharded over them (FSDP, SHARDED_STATE_DICT)" in stdout
    assert isinstance(load_model(output_dir)[0], MAEForPreTraining)
    assert (output_dir / "README.md").is_file()
    exported = tmp_path / "exported"
    run_script("export.py", f"--model_name_or_path={output_dir}", f"--output_dir={exported}")
    checkpoint = output_dir / "checkpoint-1"
    assert isinstance(load_model(checkpoint)[0], MAEForPreTraining)
    with pytest.raises(ValueError, match="this run is not sharded, and .* was sharded by --fsdp"):
        make_trainer().check_resume(str(checkpoint))
    stdout = run_script("run_mae.py", *flags[:-1], f"--output_dir={tmp_path / 'cpu'}", processes=2)
    assert "the whole model on each (--fsdp shards over accelerators only)" in stdout
