"""How often one policy of `sort` does what a sentence says: in the words of its training, in other words, and without.

    pip install 'recede[text]' wordllama
    PYTHONPATH=benchmarks python benchmarks/words.py FOLDER [text_encoder=ENCODER] [json=FILE]

Everything but the encoder is a `recede` command, which is printed before it runs. Without `text_encoder=`, FOLDER gets
a text encoder that is made of the package wordllama: a table of a vector of 256 numbers for each token, and its
tokenizer. As a T5 encoder without layers it gives the vectors of the tokens as they are, each scaled to a root mean
square of 1.

The policy is trained on the sentences of `sort` and evaluated on `EPISODES` episodes three times: in `sort`, in
`sort_reworded`, none of whose verbs, nouns and patterns training had, and in `sort` without any sentence, as the policy
is if it follows its context with a weight of 0. A failed episode may have met another goal instead. There is one
training, so the intervals are over episodes alone. A command that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from recede.benchmarks.measure import Row, output, recede, report
from recede.envs.tasks.sort import GOALS, Sort, SortReworded, Wordings
from recede.evaluation.intervals import wilson
from recede.files import read_json
from recede.policy.encoders.text import TextEncoder

DEMONSTRATIONS, EPISODES, FIRST_SEED = 2000, 200, 900_000
"""Demonstrations, and the episodes of each evaluation with the seed of the first one."""
TRAINING: tuple[str, ...] = (
    *("mirror=true", "batch_size=128", "steps=16000", "validate_every=1000", "save_every=1000"),
    *("policy.network.channels=[32,64,128]", "policy.network.hidden=[256,256]", "augmentation.words=0.35"),
)
"""More arguments of the training."""
EVALUATION: tuple[str, ...] = ("videos=0",)
"""More arguments of every evaluation."""
WAYS = {
    "the words of training": ("task=sort",),
    "other words": ("task=sort_reworded",),
    "without words": ("task=sort", "guidance=classifier_free", "guidance.weight=0"),
}
"""How the policy is told what to do -> the arguments of its evaluation."""


def main() -> None:
    """Make the encoder, collect, train and evaluate; prints a table."""
    folder, *rest = sys.argv[1:]
    words = {key: value for key, _, value in (word.partition("=") for word in rest)}
    encoder = Path(words.pop("text_encoder", "") or make_encoder(Path(folder) / "encoder"))
    path = output([f"{key}={value}" for key, value in words.items()])
    report([*likeness(TextEncoder(encoder)), *rows(Path(folder), encoder)], path)


def make_encoder(folder: Path, package: Path | None = None) -> Path:
    """A T5 encoder without layers at `folder`, of the table and the tokenizer of wordllama.

    package: the folder of the package; None is that of this Python, none of whose code runs.

    Raises ValueError if there is none.
    """
    import torch
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    if package is None:
        spec = find_spec("wordllama")
        if spec is None or spec.origin is None:
            raise ValueError("there is no text encoder: pip install wordllama, or give text_encoder=ENCODER")
        package = Path(spec.origin).parent
    (weights,), (tokens,) = package.glob("weights/*.safetensors"), package.glob("tokenizers/*.json")
    (table,) = load_file(weights).values()
    count, size = table.shape
    model = T5EncoderModel(T5Config(vocab_size=count, d_model=size, num_layers=0, num_heads=1, d_kv=1, d_ff=1))
    with torch.no_grad():
        model.shared.weight.copy_(table)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(tokens)), unk_token="<unk>", model_max_length=256
    ).save_pretrained(folder)
    return folder


def likeness(encoder: TextEncoder) -> Iterator[Row]:
    """The mean cosine of the angle between two sentences of one goal, in the words of training and in others, and of
    two goals in the same words.
    """
    random = np.random.default_rng(0)
    draws = [[drawn(wordings, random) for wordings in (Sort.wordings, SortReworded.wordings)] for _ in range(100)]
    embedded = np.array([[[encoder(sentence) for sentence in four] for four in pair] for pair in draws])
    embedded /= np.linalg.norm(embedded, axis=-1, keepdims=True)
    cosines = embedded[:, 0] @ embedded.swapaxes(-1, -2)[:, 0], embedded[:, 0] @ embedded.swapaxes(-1, -2)[:, 1]
    goals = np.eye(len(GOALS), dtype=bool)
    for name, value in (
        ("two goals in the same words", cosines[0][:, ~goals].mean()),
        ("one goal in words of training and others", cosines[1][:, goals].mean()),
        ("two goals in words of training and others", cosines[1][:, ~goals].mean()),
    ):
        yield Row(name=f"cosine, {name}", value=float(value), unit="")


def drawn(wordings: Wordings, random: np.random.Generator) -> list[str]:
    """A sentence for each goal, all in the same words."""
    words = random.integers([len(choices) for choices in wordings]).tolist()
    return [wordings.sentence(words, cube=cube, mark=mark) for cube, mark in GOALS]


def rows(folder: Path, encoder: Path) -> Iterator[Row]:
    """The success of the policy in every way, and how often it met another goal instead."""
    store, run = folder / "sort.zarr", folder / "words"
    if not store.exists():
        recede("collect", "task=sort", f"episodes={DEMONSTRATIONS}", f"out={store}")
    observed = ["observe=[gripper,orange,blue,teal,red,offset]", f"text_encoder={encoder}"]
    recede("train", "task=sort", f"dataset={store}", *observed, *TRAINING, f"out={run}")
    for number, (name, arguments) in enumerate(WAYS.items()):
        out = folder / f"evaluation-{number}"
        if not (out / "evaluation.json").exists():
            seeds = [f"episodes={EPISODES}", f"first_seed={FIRST_SEED}"]
            recede("evaluate", str(run), *arguments, *seeds, *EVALUATION, f"out={out}")
        evaluation = read_json(out / "evaluation.json")
        yield rate(f"{name}, success", sum(evaluation["success"]), EPISODES)
        yield rate(f"{name}, met another goal", evaluation["phase"].count("met another goal"), EPISODES)


def rate(name: str, count: int, total: int) -> Row:
    """A share of episodes in % with its interval."""
    low, high = wilson(count, total)
    return Row(name=name, value=100 * count / total, unit=f"% [{100 * low:.0f}, {100 * high:.0f}] of {total}")


if __name__ == "__main__":
    main()
