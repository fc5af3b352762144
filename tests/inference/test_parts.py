"""Answers kept in parts: by any number of processes, killed and gone on with."""

import itertools

import pyarrow as pa
import pytest
import torch
from accelerate import PartialState
from torch import nn

from hf_mae import ImageSamples, MAEImageProcessor
from hf_mae.data.transforms import ProcessorTransform
from hf_mae.errors import Stopped
from hf_mae.inference.parts import Parts, compute_parts, progress_bar, weights_digest


SMALL = {"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}}


@pytest.fixture
def samples(digits):
    transform = ProcessorTransform(MAEImageProcessor(**SMALL))
    return ImageSamples(digits["validation"].select(range(23)), transform, 3, seed=0)


class Answers:
    """A mean a picture, and every batch that was asked for; the third may be the last one."""

    def __init__(self, error=None):
        self.batches = []
        self.error = error

    def __call__(self, batch):
        if self.error is not None and len(self.batches) == 3:
            raise self.error
        self.batches.append(batch.indices)
        means = batch.pixel_values.mean(dim=(1, 2, 3)).tolist()
        return pa.table({"index": batch.indices, "mean": means})


def compute(parts, samples, answer, process=0, processes=1, num_workers=0):
    state = PartialState(cpu=True)
    one_of_several = type("State", (), dict(vars(state)))()
    one_of_several.process_index, one_of_several.num_processes = process, processes
    one_of_several.is_main_process = process == 0
    one_of_several.main_process_first = state.main_process_first
    one_of_several.wait_for_everyone = state.wait_for_everyone
    compute_parts(parts, samples, answer, 3, num_workers, one_of_several)
    return answer


def read(parts):
    return pa.concat_tables(parts.tables()).to_pydict()


def new_parts(folder, **about):
    return Parts(folder, count=23, rows=5, about={"model": "x", **about})


def test_parts_are_whole_and_in_order_however_many_processes(samples, tmp_path):
    one = new_parts(tmp_path / "one.parts")
    assert [list(one.span(part)) for part in (0, 4)] == [[0, 1, 2, 3, 4], [20, 21, 22]]
    answer = compute(one, samples, Answers())
    assert answer.batches[:3] == [[0, 1, 2], [3, 4], [5, 6, 7]]
    expected = read(one)
    assert expected["index"] == list(range(23))
    several = new_parts(tmp_path / "several.parts")
    batches = []
    for process in (0, 1, 2):  # each opens what is there
        batches += compute(several, samples, Answers(), process, 3, num_workers=1).batches
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(23))  # each image once
    assert read(several) == expected
    several.remove()
    assert not (tmp_path / "several.parts").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("broken weights")])
def test_what_is_done_is_kept(samples, tmp_path, caplog, error):
    parts = new_parts(tmp_path / "x.parts")
    is_stop = isinstance(error, KeyboardInterrupt)
    with pytest.raises(Stopped if is_stop else ValueError) as caught:
        compute(parts, samples, Answers(error))
    if is_stop:
        assert "answers for 5 of 23 images are kept in" in str(caught.value)
    assert (parts.has(0), parts.has(1)) == (True, False)
    answer = compute(parts, samples, Answers())
    assert answer.batches[0] == [5, 6, 7]
    assert read(parts)["index"] == list(range(23))
    assert compute(parts, samples, Answers()).batches == []


def test_only_their_own_parts_are_gone_on_with(tmp_path):
    kept = new_parts(tmp_path / "x.parts", labels=["a", "b"])
    kept.open()
    kept.write(0, pa.table({"index": [0]}))
    del kept  # and its lock
    new_parts(tmp_path / "x.parts", labels=("a", "b")).open()
    with pytest.raises(ValueError, match="holds parts of answers with other labels, top_k; remove"):
        new_parts(tmp_path / "x.parts", labels=["b"], top_k=1).open()
    with pytest.raises(ValueError, match="with other images, rows"):
        Parts(tmp_path / "x.parts", 24, 6, {"model": "x", "labels": ["a", "b"]}).open()
    (tmp_path / "x.parts" / "about.json").write_text("{")
    with pytest.raises(ValueError, match="about.json is damaged"):
        new_parts(tmp_path / "x.parts").open()
    (tmp_path / "mine.parts").mkdir()
    (tmp_path / "mine.parts" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="holds no parts of answers but thesis.tex"):
        new_parts(tmp_path / "mine.parts").open()


def test_a_damaged_part_is_named(samples, tmp_path):
    parts = new_parts(tmp_path / "x.parts")
    compute(parts, samples, Answers())
    (tmp_path / "x.parts" / "000003.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match="000003.parquet is missing or damaged"):
        read(parts)
    (tmp_path / "x.parts" / "000003.parquet").unlink()
    with pytest.raises(ValueError, match="000003.parquet is missing or damaged"):
        read(parts)


def test_weights_have_a_name():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    digest = weights_digest(model)
    assert digest == weights_digest(model)
    assert len(digest) == 8
    with torch.no_grad():
        model[0].bias[2] += 1e-6
    assert digest != weights_digest(model)
    assert weights_digest(model.bfloat16()) != weights_digest(model.float())


def test_a_bar_is_of_what_takes_long(capfd):
    with progress_bar(100, PartialState(cpu=True)) as bar:
        bar.update(100)
    assert capfd.readouterr().err == ""
    with progress_bar(100, PartialState(cpu=True)) as bar:
        bar.start_t -= 200
        bar.last_print_t -= 100
        bar.update(50)
        bar.update(50)
    assert "50/100" in capfd.readouterr().err  # one a minute, for this is no terminal


def test_one_run_at_a_time(tmp_path):
    first = new_parts(tmp_path / "x.parts")
    first.open()
    with pytest.raises(ValueError, match="is being written by another run"):
        new_parts(tmp_path / "x.parts").open()
    first.remove()
    new_parts(tmp_path / "x.parts").open()


def test_what_kept_nothing_blocks_nothing(tmp_path):
    new_parts(tmp_path / "x.parts", model="broken").open()
    new_parts(tmp_path / "x.parts", model="mended").open()
