"""However a total batch is spread over processes, accumulated batches and workers, and whatever of
that changes at a resume: the losses are the same, for every trainer, with everything on."""

import itertools

import pytest
from helpers import train_jobs


KINDS = ("pretrain", "finetune", "probe", "cached")
UPDATES = 6
SAVED = 3  # amid an epoch


@pytest.fixture
def spread(tmp_path):
    """Jobs of all kinds, spread over so many accumulated batches and workers; with `resumed` they
    go on where the jobs in that folder saved."""

    def spread(folder, accumulation=1, workers=0, resumed=None, kinds=KINDS):
        jobs = []
        for kind in kinds:
            arguments = {
                "gradient_accumulation_steps": accumulation,
                "dataloader_num_workers": workers,
                "max_steps": UPDATES,
                "save_strategy": "steps",
                "save_steps": SAVED,
            }
            if resumed:
                checkpoint = tmp_path / resumed / kind / f"checkpoint-{SAVED}"
                arguments["resume_from_checkpoint"] = str(checkpoint)
            name, place = f"{folder} {kind}", str(tmp_path / folder / kind)
            jobs.append({"name": name, "kind": kind, "folder": place, "arguments": arguments})
        return jobs

    return spread


def assert_same(reports, expected, kinds=KINDS):
    for name, report in reports.items():
        wanted = expected[f"plain {name.split()[-1]}"]
        assert report["losses"] == pytest.approx(wanted["losses"], rel=1e-6), name
        if "eval_loss" in wanted:
            assert report["eval_loss"] == pytest.approx(wanted["eval_loss"], rel=1e-6), name


def test_any_spread_and_any_resume_train_the_same(spread):
    of_two = train_jobs(spread("two", accumulation=2, workers=2), processes=2)
    one = [*spread("plain"), *spread("on to one", accumulation=4, workers=2, resumed="two")]
    of_one = train_jobs(one, processes=1)
    of_four = train_jobs(spread("on to four", resumed="two"), processes=4)
    assert len(of_two) == len(of_four) == len(of_one) / 2 == len(KINDS)
    for kind in KINDS:
        losses = of_one[f"plain {kind}"]["losses"]
        assert len(set(losses)) == UPDATES, kind
    assert_same({**of_one, **of_two, **of_four}, of_one)


@pytest.mark.slow
def test_every_spread_and_every_resume(spread):
    """All of 1, 2 and 4 processes, 1, 2 and 4 accumulated batches, 0 and 2 workers; stopped with 1,
    2 and 4 processes and resumed with each."""
    expected = train_jobs(spread("plain"), processes=1)
    for processes in (1, 2, 4):
        jobs = []
        for accumulation, workers in itertools.product((1, 2, 4), (0, 2)):
            name = f"{processes}x{accumulation}x{workers}"
            jobs += spread(name, accumulation, workers)
        assert_same(train_jobs(jobs, processes), expected)
    for processes in (1, 2, 4):
        jobs = []
        for before in (1, 2, 4):
            name = f"{before} to {processes}"
            jobs += spread(name, 4 // processes, resumed=f"{before}x2x2")
        assert_same(train_jobs(jobs, processes), expected)
