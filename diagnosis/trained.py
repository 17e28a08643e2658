"""A trained policy: its ranges and errors on demonstrations, what its encoder sees, and whether its engines agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import gettempdir
from typing import Any, NamedTuple

import numpy as np
import torch

from ..checkpoints.exporting import recorded_trials
from ..checkpoints.opening import load_policy, text_encoder_of
from ..checkpoints.runs import read_metrics
from ..configs.packages import import_packages
from ..datasets.demonstrations import Demonstrations
from ..datasets.findings import together
from ..datasets.fingerprint import vector_digests
from ..datasets.observing import Masked, Observing, Worded, as_recorded, to_observe
from ..datasets.selection import Selected
from ..envs.catalogue import TASKS
from ..evaluation.reports.demonstrations import Visible, draw_visible
from ..evaluation.reports.learning import outlook
from ..files import scratch_folder
from ..policy.encoders.observation import ObservationEncoder
from ..policy.engines.choice import Verdict
from ..policy.engines.eager import EagerEngine
from ..policy.engines.interface import ENGINES
from ..policy.engines.making import choose_engine
from ..policy.engines.pieces import check_exportable
from ..policy.interface import Policy
from ..policy.normalizer import CLIP, Normalizer
from ..specification import WORDS, Stream
from ..training.resuming import Beyond, beyond
from .children import NoAnswer, answer
from .data import opened
from .errors import USELESS, Errors, in_words, measure_errors, of_dimensions
from .report import Facts, Finding

FEW, MANY = 0.01, 0.5
"""Shares of the steps beyond a range: up to the first they are outliers, from the second on the data are others."""

CLOSE = 1.25
"""Half ranges from the centre up to which values beyond a range are close to those that the policy knows."""

SMALL = 0.5
"""An encoder that gets less of an image's area than this may miss what matters."""

POOR = 0.5
"""An error of more than this share of that of the mean action says that little was learned."""

CHUNKS = 8
"""Chunks of each episode on which errors are measured."""

MOST_EPISODES = 50
"""Most episodes on which errors are measured."""

PARITY_S = 300.0
"""Longest time in which the engines are compared, s."""


class Trained(NamedTuple):
    """A trained policy and the demonstrations that it is held against."""

    policy: Any
    """A `Policy`."""
    manifest: Mapping[str, Any]
    demonstrations: Demonstrations | None
    """With the streams that the policy observes; None if there are none at hand."""
    source: tuple[str, str | None] | None
    """Their path and their task."""
    absence: str = ""
    """Why there are none."""


def open_trained(run: str, *, dataset: str | None, task: str | None, episodes: str | None) -> Trained:
    """A run or a checkpoint with its demonstrations, or with those of `dataset`.

    Raises the errors of `load_policy`, and ValueError if `dataset` cannot be read or has other streams.
    """
    policy, manifest = load_policy(run)
    place = dataset or _noted(manifest)
    if place is None or (dataset is None and not Path(place).exists()):
        absence = f"its demonstrations are not here ({place})" if place else "it names no demonstrations"
        return Trained(policy, manifest, None, None, absence)
    name = task or (manifest["task"] if manifest["task"] in TASKS else None)
    can_lack = bool(policy.specification.may_be_absent)
    observed = _observed(policy, manifest, opened(place, name, episodes, can_lack=can_lack))
    return Trained(policy, manifest, observed, (place, name))


def _noted(manifest: Mapping[str, Any]) -> str | None:
    """The demonstrations of the training, the first of several."""
    noted = manifest.get("dataset")
    return noted[0] if isinstance(noted, list) else noted


def _observed(policy: Policy, manifest: Mapping[str, Any], demonstrations: Demonstrations) -> Demonstrations:
    """The demonstrations with the streams of the policy. Raises ValueError if they have others."""
    observed: Demonstrations = Observing(demonstrations, to_observe(demonstrations, policy.specification))
    if streams := policy.specification.may_be_absent:
        observed = Masked(observed, streams)
    if (text := text_encoder_of(manifest, None)) is not None:
        observed = Worded(observed, text, digest=text.digest)
    if differences := observed.specification.differences(policy.specification):
        raise ValueError(
            f"{demonstrations.path} must have the streams of the policy, whose are named second: "
            f"{'; '.join(differences)}: give dataset= with demonstrations like those of the training"
        )
    return observed


def look_at_policy(trained: Trained, facts: Facts, *, run: str) -> Iterator[Finding]:
    """The policy, its training, and the dimensions that it sees as constant."""
    policy, manifest = trained.policy, trained.manifest
    facts |= {name: manifest.get(name) for name in ("step", "task", "policy", "versions", "dataset")}
    horizons = policy.horizons
    facts["horizons"] = {name: getattr(horizons, name) for name in ("observation", "prediction", "action")}
    count = sum(parameter.numel() for parameter in policy.parameters())
    what = f"observes {horizons.observation}, predicts {horizons.prediction} and executes {horizons.action} steps"
    yield Finding("ok", f"{count:,} parameters after {manifest['step']} updates; it {what}")
    if text := outlook(read_metrics(Path(run))):
        yield Finding("ok", text.rstrip("."))
    yield from _still(policy.normalizer, policy.specification.streams, facts)
    if trained.demonstrations is None:
        remedy = "give dataset= to hold the policy against demonstrations"
        yield Finding("note", f"ranges and errors are not checked: {trained.absence}", remedy)


def _still(normalizer: Normalizer, streams: Sequence[Stream], facts: Facts) -> Iterator[Finding]:
    """Dimensions that the policy sees as constant."""
    facts["ranges"] = {}
    for stream in streams:
        if stream.is_image:
            continue
        centre, half = (values.cpu().numpy() for values in normalizer.affine(stream.name))
        facts["ranges"][stream.name] = [(centre - half).tolist(), (centre + half).tolist()]
        still = np.flatnonzero(half == 0).tolist() if half.ndim == 1 else []
        if still:
            remedy = f"if they should move, train with normalisation.{stream.name}.floor=0 or on other demonstrations"
            effect = "it always commands the same there" if stream.name == "action" else "it sees nothing there"
            yield Finding("note", f"{together(stream, still)} did not move in the training: {effect}", remedy)


def look_at_ranges(normalizer: Normalizer, demonstrations: Demonstrations, facts: Facts) -> Iterator[Finding]:
    """Values beyond the ranges of the policy, and dimensions that stopped moving."""
    facts["share beyond the range"], close, count = {}, list[str](), 0
    demonstrations = as_recorded(demonstrations)
    for stream in demonstrations.specification.streams:
        if stream.is_image or stream.name == WORDS:
            continue
        rows = demonstrations.read(stream.name)
        for entry in beyond(normalizer, stream, torch.from_numpy(rows.astype(np.float32))):
            facts["share beyond the range"][entry.label] = entry.share
            count += 1
            if entry.share < MANY and _reach(entry) <= CLOSE:
                close.append(entry.label)
            else:
                yield _beyond(entry, is_action=stream.name == "action")
        half = normalizer.affine(stream.name).half_range.cpu().numpy()
        if stuck := np.flatnonzero((half > 0) & (np.ptp(rows, axis=0) == 0)).tolist():
            what = f"{together(stream, stuck)} moved in the training, and is constant in {demonstrations.path}"
            yield Finding("warning", what, "see whether a sensor is stuck or unplugged")
    if close:
        what = f"{', '.join(close)} go beyond the ranges of the policy, at most {CLOSE - 1:.0%} of half a range"
        yield Finding("note", what, "so little does not matter")
    if not count:
        yield Finding("ok", f"all values of {demonstrations.path} lie within the ranges of the policy")


def _reach(entry: Beyond) -> float:
    """How far the values go from the centre of the range, in half ranges."""
    (least, largest), (low, high) = entry.values, entry.bounds
    return np.inf if low == high else float(max(high + low - 2 * least, 2 * largest - high - low) / (high - low))


def _beyond(entry: Beyond, *, is_action: bool) -> Finding:
    (least, largest), (low, high) = entry.values, entry.bounds
    what = (
        f"{entry.label} is in [{least:.4g}, {largest:.4g}], and {entry.share:.1%} of the steps lie beyond the range "
        f"[{low:.4g}, {high:.4g}], "
    )
    what += "which the policy never commands" if is_action else f"which it sees cut off at {CLIP:g} half ranges"
    if entry.share <= FEW:
        return Finding("note", what, "a few outliers do not matter")
    remedy = "see whether units, offsets or the calibration changed; if these data are right, train on them"
    return Finding("problem" if entry.share >= MANY else "warning", what, remedy)


def look_at_errors(trained: Trained, demonstrations: Demonstrations, facts: Facts) -> Iterator[Finding]:
    """The error in each dimension on episodes that the policy has not learned."""
    fresh, kind = _fresh(trained.manifest, demonstrations)
    count = min(len(fresh), MOST_EPISODES)
    chosen = [fresh[index] for index in np.linspace(0, len(fresh) - 1, count).astype(int)]
    engine, action = EagerEngine(trained.policy), demonstrations.specification.action
    errors = measure_errors(engine, Selected(demonstrations, chosen), demonstrations, windows=CHUNKS)
    facts |= {"episodes": count, "kind": kind, **errors.to_json(action)}
    yield _overall(errors, f"{count} {'episode' if count == 1 else 'episodes'} {kind}")
    yield from of_dimensions(errors, action)


def _fresh(manifest: Mapping[str, Any], demonstrations: Demonstrations) -> tuple[list[int], str]:
    """The episodes that the policy was not trained on, what they are; all episodes if there is none.

    They are told by their content, so the demonstrations may have moved or grown.
    """
    split, everything = manifest.get("split"), list(range(len(demonstrations)))
    if split is None:
        return everything, "that it may have learned"
    held_out = set(manifest["held_out_episodes"])
    learned = {digest for index, digest in enumerate(split["sha256"]) if index not in held_out}
    fresh = [index for index, digest in enumerate(vector_digests(demonstrations)) if digest not in learned]
    return (fresh, "that it has not learned") if fresh else (everything, "that it has learned")


def _overall(errors: Errors, kind: str) -> Finding:
    policy, mean = errors.share(errors.policy), errors.share(errors.mean)
    what = f"on {errors.chunks} chunks of {kind} it {in_words(errors)}"
    if not policy < USELESS * mean:
        remedy = "overfit=true says whether it can learn at all; if so, train longer, on more demonstrations"
        return Finding("problem", f"{what}: it is no better than the mean", remedy)
    if policy > POOR * mean:
        remedy = "train longer, or on more demonstrations; where several actions are good, evaluate it instead"
        return Finding("warning", f"{what}: it has learned little of them", remedy)
    return Finding("ok", what)


def look_at_images(trained: Trained, facts: Facts, *, out: Path) -> Iterator[Finding]:
    """What the encoder gets of each camera's image, also as a picture."""
    encoder, demonstrations = trained.policy.encoder, trained.demonstrations
    if not isinstance(encoder, ObservationEncoder):
        yield Finding("note", f"{type(encoder).__name__} is an encoder of your own", "see yourself what it gets")
        return
    cameras = [stream for stream in trained.policy.specification.observations if stream.is_image]
    views = [_view(encoder, stream, demonstrations) for stream in cameras]
    facts["shares of the images"] = {view.camera: view.share for view in views}
    yield from map(_visible, views)
    if demonstrations is not None:
        draw_visible(views, out)
        facts["picture"] = str(out)
        yield Finding("ok", f"picture: {out}")


def _visible(view: Visible) -> Finding:
    crop, encoded = _pixels(view.crop), _pixels(view.encoded.shape)
    size = "" if encoded == crop else f", resized to {encoded}"
    what = (
        f"{view.camera}: the encoder gets {view.share:.1%} of the image, the central {crop} of "
        f"{_pixels(view.frame.shape)} pixels{size}"
    )
    if view.share >= SMALL:
        return Finding("ok", what)
    remedy = (
        "see in the picture whether all that matters is in the crop; if not, make the images smaller (recede edit "
        f"resize={{{view.camera}: [H,W]}}), or train with a larger policy.encoder.crop"
    )
    return Finding("warning", what, remedy)


def _pixels(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"


def _view(encoder: ObservationEncoder, stream: Stream, demonstrations: Demonstrations | None) -> Visible:
    """What the encoder gets of the first image of a camera, or of a black one if there is none."""
    black = np.zeros((1, *stream.shape), np.uint8)
    frame = (black if demonstrations is None else demonstrations.read(stream.name, 0, 1))[0]
    encoded = encoder.visible(stream.name, torch.from_numpy(frame)).round().clamp(0, 255).to(torch.uint8).numpy()
    return Visible(stream.name, frame, encoder.crop or (stream.shape[0], stream.shape[1]), encoded)


def look_at_engines(
    run: str, facts: Facts, *, source: tuple[str, str | None] | None, imports: Sequence[str]
) -> Iterator[Finding]:
    """Whether the engines of this machine agree with PyTorch. source: of the demonstrations to try, and their task."""
    verdicts = answer(compare_engines, run, source, list(imports), seconds=PARITY_S)
    if isinstance(verdicts, NoAnswer):
        yield Finding("warning", f"the engines cannot be compared: {verdicts.reason}", "use engine=eager")
        return
    facts["engines"] = {name: text for name, _, text in verdicts}
    for name, verdict, text in verdicts:
        if name == "eager":  # the others are compared with it
            continue
        if verdict == "usable":
            yield Finding("ok", text)
        elif verdict == "differs":
            yield Finding("warning", text, f"do not use engine={name} for this policy; `recede export` leaves it out")
        else:
            yield Finding("note", text, "another engine runs the policy as well")


def compare_engines(
    run: str, source: tuple[str, str | None] | None, imports: Sequence[str]
) -> Iterator[list[tuple[str, str, str]]]:
    """(name, "usable", "differs" or "absent", all in words) of each engine."""
    import_packages(imports)
    dataset, task = source or (None, None)
    trained = open_trained(run, dataset=dataset, task=task, episodes=None)
    policy, demonstrations = check_exportable(trained.policy), trained.demonstrations
    trials = None if demonstrations is None else recorded_trials(demonstrations, policy, str(demonstrations.path))
    names = [name for name in ENGINES if name != "cuda_graph" or torch.cuda.is_available()]
    with scratch_folder(Path(gettempdir(), "recede-doctor")) as scratch:
        verdicts = choose_engine(policy, names, scratch, trials=trials).verdicts
    yield [(verdict.name, _in_a_word(verdict), str(verdict)) for verdict in verdicts]


def _in_a_word(verdict: Verdict) -> str:
    return "usable" if verdict.is_usable else "differs" if verdict.precision else "absent"
