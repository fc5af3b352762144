"""Streams of shards: every row once a pass, the same batches whenever they are asked for, real
processes and workers."""

import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from helpers import TINY, TINY_FLAGS, encoded, run_script, script_error

from hf_mae import MAEConfig
from hf_mae.data.samples import collate
from hf_mae.data.streaming import ImageStream, StreamPlan, _Reader, load_image_stream
from hf_mae.data.transforms import PretrainingTransform
from hf_mae.errors import BadImageError


ROWS = (7, 12, 3, 9, 5, 4)  # of each shard


@pytest.fixture(scope="module")
def shards(photos, tmp_path_factory):
    """Parquet shards of unequal length; every picture is another."""
    folder = tmp_path_factory.mktemp("shards")
    features = Features({"image": ImageFeature(decode=False), "caption": datasets.Value("string")})
    for shard, count in enumerate(ROWS):
        rows = []
        for row in range(count):
            left = 7 * (20 * shard + row) % 500
            picture = encoded(
                photos[shard % 2].crop((left, 3 * row, left + 60, 3 * row + 50)), "jpeg"
            )
            rows.append({"image": {"bytes": picture, "path": f"{shard}-{row}.jpg"}, "caption": "a"})
        Dataset.from_list(rows, features=features).to_parquet(folder / f"train-{shard:05d}.parquet")
    return folder


def stream(folder, plan, buffer=4, **options):
    train, _, _ = load_image_stream(str(folder))
    images = ImageStream(
        train,
        PretrainingTransform(MAEConfig(**TINY)),
        3,
        5,
        epoch_samples=sum(ROWS),
        shuffle_buffer=buffer,
        **options,
    )
    images.plan = plan
    return images


def slots_of(plan, stream_number):
    """First slots of the batches of one stream, epoch by epoch."""
    for first in itertools.count(0, plan.batch_size):
        if plan.locate(first)[0] == stream_number:
            yield list(range(first, first + plan.batch_size))


@pytest.mark.parametrize("num_streams", [1, 2, 4, 6, 8, 15])
@pytest.mark.parametrize("buffer", [1, 4, 100])
def test_every_row_once_a_pass(shards, num_streams, buffer):
    images = stream(shards, StreamPlan(1, num_streams, num_streams, num_workers=0), buffer)
    for wanted in (0, 3):
        rows = Counter()
        for number in range(num_streams):
            for read in _Reader(images, number, position=0):
                number_of_pass, shard, row = read.place
                if number_of_pass > wanted:
                    break
                rows[shard, row] += number_of_pass == wanted
        assert +rows == Counter(
            (shard, row) for shard, count in enumerate(ROWS) for row in range(count)
        )


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_any_batch_can_be_asked_for(shards, workers):
    """What a run that is resumed does; with and without knowing how long the shards are."""
    plan = StreamPlan(batch_size=2, epoch_batches=14, num_processes=2, num_workers=workers)
    for number in range(plan.num_streams):
        whole = stream(shards, plan)
        batches = [
            (slots, collate(whole.__getitems__(slots)))
            for slots in itertools.islice(slots_of(plan, number), 60)
        ]
        rows = dict(shard for _, batch in batches for shard in batch["read_shards"])
        assert rows.items() <= dict(enumerate(ROWS)).items()
        for known in ({}, rows):
            for start in (0, 1, 2, 5, 17, 40, 59):
                resumed = stream(shards, plan)
                resumed.shard_rows = known
                for slots, expected in batches[start : start + 2]:
                    batch = collate(resumed.__getitems__(slots))
                    assert torch.equal(batch["index"], expected["index"])
                    assert torch.equal(batch["images"], expected["images"])
                    assert torch.equal(batch["noise"], expected["noise"])


def test_known_shards_are_not_read_again(shards, monkeypatch):
    plan = StreamPlan(batch_size=2, epoch_batches=20, num_processes=1, num_workers=0)
    images = stream(shards, plan)
    images.shard_rows = dict(enumerate(ROWS))
    read = []
    shard = datasets.IterableDataset.shard
    monkeypatch.setattr(
        datasets.IterableDataset, "shard", lambda self, n, i: read.append(i) or shard(self, n, i)
    )
    images.__getitems__([20 * 40 * 50, 20 * 40 * 50 + 1])  # epoch 1000
    assert len(read) <= 2


def test_batches_and_streams():
    plan = StreamPlan(batch_size=4, epoch_batches=6, num_processes=2, num_workers=2)
    # process 0 has batches 0, 2, 4 of an epoch, process 1 has 1, 3, 5; workers take turns
    found = [plan.locate(4 * batch) for batch in range(12)]
    assert found[:6] == [(0, 0), (2, 0), (1, 0), (3, 0), (0, 4), (2, 4)]
    assert found[6:] == [(0, 8), (2, 8), (1, 4), (3, 4), (0, 12), (2, 12)]


def test_passes_differ(shards):
    plan = StreamPlan(batch_size=sum(ROWS), epoch_batches=1, num_processes=1, num_workers=0)
    images = stream(shards, plan)
    first, second = (images.__getitems__(list(range(40 * i, 40 * i + 40))) for i in range(2))
    assert [s["index"] for s in first] != [s["index"] for s in second]
    assert sorted(s["index"] for s in first) == sorted(s["index"] for s in second)
    pixels = {s["index"]: s["images"] for s in first}
    assert not any(torch.equal(pixels[s["index"]], s["images"]) for s in second)


def test_crops_of_an_image(shards):
    plan = StreamPlan(batch_size=6, epoch_batches=6, num_processes=1, num_workers=0)
    samples = stream(shards, plan, crops_per_image=3).__getitems__(list(range(6)))
    assert [s["index"] for s in samples[:3]] == [samples[0]["index"]] * 3
    assert samples[3]["index"] != samples[0]["index"]
    assert len({s["noise"].numpy().tobytes() for s in samples}) == 6


def test_too_many_workers(tmp_path, shards):
    Dataset.from_parquet(str(shards / "train-00002.parquet")).to_parquet(
        tmp_path / "a.parquet"
    )  # 3 rows
    plan = StreamPlan(batch_size=1, epoch_batches=4, num_processes=4, num_workers=0)
    images = stream(tmp_path, plan)
    images.__getitems__([2])
    with pytest.raises(BadImageError, match="there are too few images for 4 workers; take fewer"):
        images.__getitems__([3])


def write_webdataset(folder, photos, counts, bad=()):
    for shard, count in enumerate(counts):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for row in range(count):
                data = encoded(photos[row % 2].crop((row, shard, row + 60, shard + 50)), "jpeg")
                data = data[:200] if (shard, row) in bad else data
                for name, content in {
                    f"{shard}_{row}.jpg": data,
                    f"{shard}_{row}.json": b'{"a": 1}',
                }.items():
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    return folder


def test_webdataset_and_bad_images(tmp_path, photos):
    write_webdataset(tmp_path, photos, (5, 8), bad={(0, 2), (1, 7)})
    plan = StreamPlan(batch_size=13, epoch_batches=1, num_processes=1, num_workers=0)
    samples = stream(tmp_path, plan).__getitems__(list(range(13)))
    assert sorted(s["index"] for s in samples) == [*range(5), *(10**8 + row for row in range(8))]
    bad = [note for s in samples for note in s["bad_images"]]
    assert sorted({number for number, _, _ in bad}) == [2, 10**8 + 7]
    with pytest.raises(BadImageError, match=r"image \d+ \(.*\) can't be decoded"):
        stream(tmp_path, plan, on_bad_image="raise").__getitems__(list(range(13)))


@pytest.mark.parametrize(("rows", "buffer", "bad"), [(9, 4, 8), (20, 1, 5), (5, 100, 0)])
def test_a_bad_image_alone_in_its_block(rows, buffer, bad, tmp_path, photos):
    write_webdataset(tmp_path, photos, (rows,), bad={(0, bad)})
    plan = StreamPlan(batch_size=rows, epoch_batches=1, num_processes=1, num_workers=0)
    for _ in range(2):
        samples = stream(tmp_path, plan, buffer).__getitems__(list(range(rows)))
        assert sorted(s["index"] for s in samples) == list(range(rows))
        assert {note[0] for s in samples for note in s["bad_images"]} == {bad}


def test_images_in_a_zip_file(tmp_path, photos):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for i in range(6):
            archive.writestr(f"im{i}.jpg", encoded(photos[i % 2].resize((60, 50)), "jpeg"))
    plan = StreamPlan(batch_size=6, epoch_batches=1, num_processes=1, num_workers=0)
    samples = stream(tmp_path, plan).__getitems__(list(range(6)))
    assert not any(s["bad_images"] for s in samples)
    assert len({s["index"] for s in samples}) == 6


def flags(folder, output_dir, steps):
    return [
        *TINY_FLAGS,
        "--streaming",
        f"--dataset_name={folder}",
        f"--output_dir={output_dir}",
        "--epoch_samples=40",
        "--shuffle_buffer=4",
        "--per_device_train_batch_size=2",
        "--dataloader_num_workers=2",
        f"--max_steps={steps}",
        "--save_strategy=steps",
        "--save_steps=7",
        "--save_total_limit=9",
        "--warmup_epochs=0",
        "--learning_rate=1e-3",
        "--logging_steps=1",
        "--report_to=none",
        "--use_cpu",
    ]


def losses(folder):
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return {
        entry["step"]: (entry["loss"], entry["samples"]) for entry in history if "loss" in entry
    }


def test_two_processes_and_two_workers(shards, tmp_path, monkeypatch):
    """40 rows of unequal shards, epochs of 10 steps; killed within the second epoch and resumed:
    the same run."""
    whole = run_script("run_mae.py", *flags(shards, tmp_path / "whole", 23), processes=2)
    assert "40 training images" in whole
    shutil.copytree(tmp_path / "whole" / "checkpoint-14", tmp_path / "parts" / "checkpoint-14")
    resume = ["--resume_from_checkpoint=last"]
    run_script("run_mae.py", *flags(shards, tmp_path / "parts", 23), *resume, processes=2)
    first, second = losses(tmp_path / "whole"), losses(tmp_path / "parts")
    assert first.keys() == second.keys() == set(range(1, 24))
    assert [samples for _, samples in first.values()] == [4 * step for step in range(1, 24)]
    for step in first:
        assert second[step] == pytest.approx(first[step], rel=1e-5), step
    again = [*flags(shards, tmp_path / "parts", 23), *resume, "--gradient_accumulation_steps=2"]
    other = ["--dataloader_num_workers=4", "--seed=7", "--shuffle_buffer=5"]
    assert "seed is 7, and was 42. A run that is" in script_error("run_mae.py", *again, *other)
    error = script_error("run_mae.py", *again, *other, "--allow_changed=seed")
    for change in (
        "num_processes is 1, and was 2",
        "num_workers is 4, and was 2",
        "seed is 7, and was 42",
        "shuffle_buffer is 5",
    ):
        assert change in error
    (checkpoint,) = (tmp_path / "parts").glob("checkpoint-23")
    (checkpoint / "manifest.json").unlink()  # as of an earlier version, so that its files are taken
    (checkpoint / "stream.json").write_text("{}")
    assert "stream.json is damaged; resume an earlier checkpoint" in script_error(
        "run_mae.py", *again
    )
    (checkpoint / "stream.json").unlink()
    message = "is of a run without --streaming; it can't be resumed otherwise"
    assert message in script_error("run_mae.py", *again)


def test_an_epoch_has_as_many_batches_for_every_worker(shards, tmp_path):
    """40 rows, 2 an update: 20 updates, but for 3 workers 18."""
    for workers, steps in ((2, 20), (3, 18)):
        options = [f"--dataloader_num_workers={workers}", "--max_steps=1"]
        printed = run_script("run_mae.py", *flags(shards, tmp_path / f"{workers}", 1), *options)
        assert f"epochs of {steps})" in printed
    error = script_error(
        "run_mae.py", *flags(shards, tmp_path / "x", 1), "--dataloader_num_workers=25"
    )
    assert "fewer workers: their number has to divide an epoch's 20 batches" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train_dir=x"], "train_dir can't be streamed; give dataset_name"),
        ([], "streaming needs a dataset_name"),
        (
            ["--dataset_name=digits"],
            "dataset_name digits can't be streamed; a Hub id or a folder of shards can",
        ),
        (
            ["--dataset_name=SHARDS"],
            "the data set doesn't say how many images it has; give --epoch_samples",
        ),
        (
            ["--dataset_name=SHARDS", "--epoch_samples=0"],
            "epoch_samples is 0; it must be at least 1",
        ),
        (
            ["--dataset_name=SHARDS", "--knn_images=5"],
            "knn_images needs labels, which --streaming doesn't read",
        ),
        (
            ["--dataset_name=SHARDS", "--train_split=other"],
            "train_split is 'other'; the data set has train",
        ),
        (
            ["--dataset_name=SHARDS", "--image_column=caption2"],
            "image_column is 'caption2'; the data set has image, caption",
        ),
    ],
)
def test_what_is_wrong_in_a_line(options, message, shards, tmp_path):
    options = [option.replace("SHARDS", str(shards)) for option in options]
    assert message in script_error(
        "run_mae.py", "--streaming", *options, f"--output_dir={tmp_path}"
    )


def test_epoch_samples_is_for_streams(tmp_path):
    error = script_error(
        "run_mae.py", "--dataset_name=digits", "--epoch_samples=5", f"--output_dir={tmp_path}"
    )
    assert "epoch_samples is for --streaming" in error


def test_a_validation_split_is_held_in_memory(photos, tmp_path):
    for split, count in (("train", 6), ("validation", 4)):
        rows = [
            {"image": {"bytes": encoded(photos[i % 2].resize((60, 50)), "jpeg"), "path": None}}
            for i in range(count)
        ]
        features = Features({"image": ImageFeature(decode=False)})
        Dataset.from_list(rows, features=features).to_parquet(tmp_path / f"{split}-0.parquet")
    train, validation, _ = load_image_stream(str(tmp_path))
    assert len(validation) == 4
    assert np.frombuffer(validation[0]["image"]["bytes"], np.uint8)[0] == 255
    assert len(list(train)) == 6


ITERATE = """
import json, sys
import torch
from hf_mae import MAEConfig, MAEForPreTraining, MAEImageProcessor
from hf_mae.data.streaming import ImageStream, load_image_stream
from hf_mae.data.transforms import PretrainingTransform
from hf_mae.training.arguments import MAETrainingArguments
from hf_mae.training.pretraining import MAETrainer

folder, out, config = sys.argv[1], sys.argv[2], MAEConfig(**json.loads(sys.argv[3]))
torch.manual_seed(0)
args = MAETrainingArguments(
    out, per_device_train_batch_size=3, dataloader_num_workers=2, num_train_epochs=3,
    warmup_epochs=0, use_cpu=True, report_to="none", eval_strategy="no",
    dataloader_persistent_workers=True,
)
train, _, _ = load_image_stream(folder)
transform = PretrainingTransform(config)
images = ImageStream(train, transform, 3, 0, epoch_samples=48, shuffle_buffer=5)
processor = MAEImageProcessor.from_model_config(config)
trainer = MAETrainer(MAEForPreTraining(config), args, images, processing_class=processor)
seen, take_notes = [], trainer._take_notes

def remember(inputs, split):
    seen.append(take_notes(inputs, split).tolist())
    return torch.zeros(1)

trainer._take_notes = remember
trainer.train()
json.dump(seen, open(f"{out}/rank{args.process_index}.json", "w"))
"""


def test_every_row_once_an_epoch_on_real_processes(photos, tmp_path):
    """2 processes * 2 workers on 4 shards of 12 rows: every epoch has every row once, in another
    order."""
    (tmp_path / "shards").mkdir()
    write_webdataset(tmp_path / "shards", photos, (12, 12, 12, 12))
    (tmp_path / "iterate.py").write_text(ITERATE)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(tmp_path / part) for part in ("iterate.py", "shards", "out")] + [
        json.dumps(TINY)
    ]
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / "out" / f"rank{rank}.json").read_text()) for rank in range(2)]
    orders = []
    for epoch in range(3):
        batches = [batch for rank in ranks for batch in rank[8 * epoch : 8 * epoch + 8]]
        orders.append([index for batch in batches for index in batch])
        assert sorted(orders[-1]) == [
            10**8 * shard + row for shard in range(4) for row in range(12)
        ]
    assert orders[0] != orders[1] != orders[2]
