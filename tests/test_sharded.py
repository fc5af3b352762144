"""DDP and FSDP2 on two processes (gloo) compute what one process computes, every parameter taking part."""

import json
import subprocess
import sys

import pytest
from conftest import TINY, script_environment


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
    print("losses", json.dumps(losses))
if world > 1:
    dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    program = tmp_path_factory.mktemp("program") / "program.py"
    program.write_text(PROGRAM)

    def run(kind):
        launch = [] if kind == "plain" else ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        command = [sys.executable, *launch, str(program), kind, json.dumps(TINY)]
        done = subprocess.run(command, env=script_environment(2), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.split("losses", 1)[1])

    return run


def test_sharded_training_equals_plain(run):
    expected = run("plain")
    assert expected[2] < expected[0]
    for kind in ("ddp", "fsdp"):
        assert run(kind) == pytest.approx(expected, abs=1e-5), kind
