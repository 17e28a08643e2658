"""Distilled policies are trained, resumed and evaluated by the usual commands, and bad input is refused."""

import re
import shutil

import pytest
import torch
from recede.checkpoints.opening import load_policy
from representatives import representatives

TASK = "task=toys:REACH"
STEPS = ("policy/objective=progressive", "policy.objective.num_steps=2", "policy.sampler.num_steps=2")


@pytest.fixture
def train(recede, reaches, small, trained, tmp_path):
    """Distils `trained`, unless another teacher is named; returns the result and the run."""

    def train(*arguments, name="run"):
        options = [*small, "steps=4", "save_every=2", *STEPS, f"teacher={trained}", f"init_from={trained}", *arguments]
        return recede("train", TASK, f"dataset={reaches}", f"out={tmp_path / name}", *options), tmp_path / name

    return train


@pytest.mark.slow
def test_a_distillation_resumes_bit_for_bit(train):
    """And the policy knows its steps when it is loaded."""
    result, run = train()
    assert result.status == 0, result.err
    _, half = train(name="half")
    shutil.rmtree(half / "checkpoints" / "00000004")
    assert train(name="half")[0].status == 0
    policies = [load_policy(folder)[0] for folder in (run, half)]
    for name, value in policies[0].state_dict().items():
        assert torch.equal(value, policies[1].state_dict()[name])
    assert len(policies[0].sampler.levels) == 3


NEW = "init_from=null"
BAD = {
    "other steps": (["policy.sampler.num_steps=3"], "learns the 2 steps of sampler=ddim .* of 3 steps: choose"),
    "another spacing": (["policy.sampler.spacing=karras"], "spacing=trailing"),
    "a solver of estimates": (["policy/sampler=heun", "policy.sampler.num_steps=2"], "the 2 steps of sampler=ddim"),
    "a solver with noise": (["policy.sampler.eta=1"], "with eta=0"),
    "no multiple": (["policy.objective.teacher_steps=5"], "two or more times num_steps=2, got 5: give 4"),
    "no teacher": (["teacher=null"], "needs a teacher: give teacher=RUN"),
    "another schedule": (["policy/schedule=rectified_flow", NEW], "the noise schedule .* choose the policy/schedule"),
    "other horizons": (["horizons.prediction=12", NEW], "the horizons .* choose those of the teacher"),
    "other ranges": (["held_out=0.5", NEW], "the ranges of the actions .* with its held_out"),
}
"""Name -> further arguments, and what the message says."""


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_before_anything_is_written(train, name):
    arguments, message = BAD[name]
    result, run = train(*arguments)
    assert result.status == 2
    assert re.search(message, result.line)
    assert not run.exists()


@pytest.mark.slow
def test_a_distilled_policy_teaches_and_takes_the_steps_that_it_has_learned(train, recede):
    _, teacher = train(name="teacher")
    result, _ = train(f"teacher={teacher}", "policy.objective.teacher_steps=10")
    assert re.search("teacher_steps=10: of the teacher, the policy learns the 2 steps", result.line)
    arguments = ["policy.objective.teacher_steps=2", "policy.objective.num_steps=1", "policy.sampler.num_steps=1"]
    assert train(f"teacher={teacher}", f"init_from={teacher}", *arguments)[0].status == 0
    result = recede("evaluate", teacher, TASK, "episodes=1", "sampler.num_steps=1")
    assert result.status == 2
    assert re.search("learns the 2 steps of sampler=ddim .* choose sampler.num_steps=2", result.line)


@pytest.mark.parametrize("execution", representatives(["rtc", "warm_start"], "rtc"))
def test_prefixes_serve_distilled_policies(train, recede, execution):
    _, run = train()
    result = recede("evaluate", run, TASK, "episodes=2", "videos=0", "workers=0", f"execution={execution}")
    assert result.status == 0, result.err
