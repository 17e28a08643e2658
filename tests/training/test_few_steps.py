"""Policies of few steps are trained, resumed and evaluated by the usual commands, and bad input is refused."""

import re
import shutil

import pytest
import torch
from recede.checkpoints.opening import load_policy

TASK = "task=toys:REACH"
WAYS = {
    "shortcut": ("policy/objective=shortcut", "policy.sampler.num_steps=2"),
    "progressive": ("policy/objective=progressive", "policy.objective.num_steps=2", "policy.sampler.num_steps=2"),
    "mip": ("policy=mip",),
}


@pytest.fixture
def train(recede, reaches, small, trained, tmp_path):
    """Trains for a few steps, if need be with the teacher `trained`; returns the result and the run."""

    def train(way, *arguments, name="run"):
        taught = [f"teacher={trained}", f"init_from={trained}"] if way == "progressive" else []
        options = [*small, "steps=4", "save_every=2", *WAYS[way], *taught, *arguments]
        return recede("train", TASK, f"dataset={reaches}", f"out={tmp_path / name}", *options), tmp_path / name

    return train


@pytest.mark.parametrize("way", ["shortcut", "progressive"])
def test_a_training_resumes_bit_for_bit(train, way):
    """And the policy knows its steps when it is loaded."""
    result, run = train(way)
    assert result.status == 0, result.err
    _, half = train(way, name="half")
    shutil.rmtree(half / "checkpoints" / "00000004")
    assert train(way, name="half")[0].status == 0
    policies = [load_policy(folder)[0] for folder in (run, half)]
    for name, value in policies[0].state_dict().items():
        assert torch.equal(value, policies[1].state_dict()[name])
    assert len(policies[0].sampler.levels) == 3


BAD = {
    "three steps": ("shortcut", ["policy.sampler.num_steps=3"], "has learned to sample in 1, 2, 4, 8 steps .* got 3"),
    "another spacing": ("shortcut", ["policy.sampler.spacing=karras"], "with spacing=trailing"),
    "a solver of estimates": ("shortcut", ["policy/sampler=heun", "policy.sampler.num_steps=2"], "choose sampler=ddim"),
    "a solver with noise": ("progressive", ["policy.sampler.eta=1"], "choose sampler=ddim with eta=0"),
    "no power": ("shortcut", ["policy.objective.num_steps=6"], "must be a power of 2, .* got 6: give 4"),
    "no multiple": ("progressive", ["policy.objective.teacher_steps=5"], "times num_steps=2, got 5: give 4"),
    "no teacher": ("progressive", ["teacher=null"], "needs a teacher: give teacher=RUN"),
    "a needless teacher": ("shortcut", ["teacher=runs/a"], "has no use for a teacher: leave it out"),
    "another schedule": ("progressive", ["policy/schedule=rectified_flow", "init_from=null"], "the noise schedule"),
    "other horizons": ("progressive", ["horizons.prediction=12", "init_from=null"], "the horizons"),
    "other ranges": ("progressive", ["held_out=0.5", "init_from=null"], "the ranges of the actions .* held_out"),
}
"""Name -> the way, further arguments, and what the message says."""


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_before_anything_is_written(train, name):
    way, arguments, message = BAD[name]
    result, run = train(way, *arguments)
    assert result.status == 2
    assert re.search(message, result.line)
    assert not run.exists()


def test_a_teacher_must_have_learned_the_steps_that_are_distilled(train):
    _, teacher = train("progressive", name="teacher")
    result, _ = train("progressive", f"teacher={teacher}", "policy.objective.teacher_steps=10")
    assert re.search("teacher_steps=10: of the teacher, the policy has learned to sample in 2 steps", result.line)
    arguments = ["policy.objective.teacher_steps=2", "policy.objective.num_steps=1", "policy.sampler.num_steps=1"]
    assert train("progressive", f"teacher={teacher}", f"init_from={teacher}", *arguments)[0].status == 0


@pytest.mark.parametrize(("way", "steps"), [("shortcut", 3), ("progressive", 1)])
def test_a_trained_policy_refuses_steps_that_it_has_not_learned(train, recede, way, steps):
    _, run = train(way)
    result = recede("evaluate", run, TASK, "episodes=1", f"sampler.num_steps={steps}")
    assert result.status == 2
    assert re.search(f"has learned to sample in .* got {steps}: choose sampler.num_steps=", result.line)


@pytest.mark.parametrize("execution", ["rtc", "warm_start"])
@pytest.mark.parametrize("way", ["shortcut", "mip"])
def test_prefixes_serve_policies_of_few_steps(train, recede, way, execution):
    _, run = train(way)
    result = recede("evaluate", run, TASK, "episodes=2", "videos=0", "workers=0", f"execution={execution}")
    assert result.status == 0, result.err
