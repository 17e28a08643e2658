"""`recede convert`: make a demonstration store of a data set in the format of another library, or the reverse."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..configs.datasets import ConvertConfig
from ..configs.notation import command_line, shown
from ..files import check_writable, write_json, write_text
from ..version import __version__
from .next_lines import print_next

if TYPE_CHECKING:
    from ..datasets.demonstrations import Demonstrations
    from ..datasets.formats.interface import ForeignDataset
    from ..datasets.formats.lerobot_comparison import Agreement
    from ..datasets.mapping import DatasetMapping


def run(config: ConvertConfig) -> None:
    """Describe the data set and propose a mapping, convert it, or verify an earlier conversion."""
    from ..datasets.formats.recognising import open_foreign

    if config.to is not None:
        _export(config)
        return
    dataset = open_foreign(config.source)
    if config.out is None:
        _describe(config, dataset)
    elif config.verify:
        _verify(config, dataset)
    else:
        _convert(config, dataset)


def _describe(config: ConvertConfig, dataset: ForeignDataset) -> None:
    """Print what there is, and what a mapping makes of it, or propose one."""
    from ..datasets.formats.resampled import evened
    from ..datasets.mapping import UNSET, propose, to_yaml

    print("\n".join(_description(dataset)))
    file = None if config.mapping is None else Path(config.mapping)
    if file is not None and file.exists():
        mapping = _mapping(config, dataset)
        dataset = evened(dataset, mapping)
        converted = _converted(dataset, mapping, config.episodes)
        _warn_of_units(mapping)
        print(f"{file} makes {len(converted)} episodes, {converted.num_steps} steps, of these streams:")
        print("\n".join(_streams(converted)))
        _print_resampling(dataset, float(mapping.rate))
        text = ""
    else:
        text = to_yaml(propose(dataset, rate=config.rate))
        _propose(text, file)
        if UNSET in text:
            print(f"{UNSET} stands for what the data set does not say: write it to the mapping")
    stem = dataset.path.resolve().stem
    if UNSET in text and file is None:
        print_next(shown("convert", config.source, mapping=f"{stem}.yaml", rate=config.rate))
        return
    rate = None if file else config.rate
    print_next(shown("convert", config.source, out=f"data/{stem}.zarr", mapping=config.mapping, rate=rate))


def _propose(mapping: str, file: Path | None) -> None:
    """Print the proposed mapping, or write it to a file."""
    if file is None:
        print(f"\nThe proposed mapping:\n\n{mapping}")
        return
    check_writable(file.parent)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, mapping)
    print(f"mapping: {file}")


def _description(dataset: ForeignDataset) -> list[str]:
    """What a data set holds, in lines. Texts of a file are printed without what would control a terminal."""
    from ..datasets.copying import printable

    lengths, rate = dataset.episode_lengths, dataset.rate
    steps = f"{len(lengths)} episodes, {int(lengths.sum())} steps" + ("" if rate is None else f" at {rate:g} Hz")
    lines = [f"{dataset.path}: {dataset.kind} {dataset.version}".rstrip() + f", {steps}"]
    sentences = sorted({facts.sentence for facts in dataset.episode_facts} - {""})
    if sentences:
        more = f" and {len(sentences) - 3} more" if len(sentences) > 3 else ""
        lines.append(f"  tasks: {', '.join(repr(text) for text in sentences[:3])}{more}")
    outcomes = [facts.outcome for facts in dataset.episode_facts]
    if counts := {name: outcomes.count(name) for name in ("success", "failure") if name in outcomes}:
        lines.append("  outcomes: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    lines += [f"  {name}: {str(value)[:200]}" for name, value in dataset.metadata.items()]
    width = max((len(column.key) for column in dataset.columns), default=0)
    lines += [
        f"  {column.key:{width}}  {column.dtype}{list(column.shape)}  {column.note}".rstrip()
        for column in dataset.columns
    ]
    return [printable(line) for line in lines]


def _streams(converted: Demonstrations) -> list[str]:
    from ..datasets.copying import printable

    return [
        printable(f"  {stream.name}: {stream.dtype} {list(stream.shape)} {' '.join(stream.units)}".rstrip())
        for stream in converted.specification.streams
    ]


def _mapping(config: ConvertConfig, dataset: ForeignDataset) -> DatasetMapping:
    """The mapping of the file, or the proposal. Raises ValueError if it is impossible."""
    from ..datasets.mapping import UNSET, DatasetMapping, propose, read_mapping

    if config.mapping is None:
        proposal = propose(dataset, rate=config.rate)
        hint = f"see {shown('convert', config.source, mapping='FILE')}"
        hint += ", or give rate=" if proposal["rate"] == UNSET else ""
        return DatasetMapping.from_json(proposal, f"the mapping of {dataset.path} ({hint})")
    if config.rate is not None:
        raise ValueError("rate is for a mapping that is proposed: write it to the file, and leave out rate=")
    if not Path(config.mapping).exists():
        remedy = f"write the proposal there with {shown('convert', config.source, mapping=config.mapping)}"
        raise FileNotFoundError(f"mapping={config.mapping} does not exist: check the path, or {remedy}")
    return DatasetMapping.from_json(read_mapping(Path(config.mapping)), config.mapping)


def _warn_of_units(mapping: DatasetMapping) -> None:
    """Name the units that are none of the usual ones; they are kept, because others exist."""
    from ..datasets.copying import printable
    from ..datasets.mapping import UNITS

    for name, units in mapping.unknown_units.items():
        print(
            printable(
                f"warning: {name} has the units {', '.join(units)}, which recede does not know; they are kept as they "
                f"are: if that is a slip, write one of {', '.join(UNITS)}"
            )
        )


def _print_resampling(dataset: ForeignDataset, rate: float) -> None:
    """Say what even steps have done to a data set with times, or that one without times notes another rate."""
    from ..datasets.copying import printable
    from ..datasets.formats.resampled import Resampled

    if isinstance(dataset, Resampled):
        print("\n".join(map(printable, dataset.summary)))
    elif dataset.rate is not None and not math.isclose(dataset.rate, rate, rel_tol=0.01):
        print(
            f"the data set notes {dataset.rate:g} steps a second and no times, and the mapping says {rate:g}: every "
            f"step is kept, and counts as {1 / rate:.4g} s"
        )


def _converted(dataset: ForeignDataset, mapping: DatasetMapping, episodes: str | None) -> Demonstrations:
    from ..datasets.converted import Converted
    from ..datasets.selection import selected

    return selected(Converted(dataset, mapping), episodes)


def _convert(config: ConvertConfig, dataset: ForeignDataset) -> None:
    """Copy the data set into a new store, and write the proof beside it."""
    from ..datasets.converted import as_json
    from ..datasets.copying import copy, source_digest
    from ..datasets.formats.resampled import evened
    from ..datasets.image_codec import check_compression

    out = Path(str(config.out))
    if out.exists() or out.is_symlink():
        raise ValueError(f"out={out} exists already: give another out=, or add verify=true to compare it")
    check_writable(out.parent)
    check_compression(config.images)
    mapping = _mapping(config, dataset)
    dataset = evened(dataset, mapping)
    demonstrations = _converted(dataset, mapping, config.episodes)
    if config.mapping is None and dataset.noted_mapping is None:
        print(f"nobody has said how {dataset.path} is to be read, so this is guessed:")
        print("\n".join(_guesses(mapping)))
    _warn_of_units(mapping)
    _print_resampling(dataset, float(mapping.rate))
    source = {
        "path": str(dataset.path),
        "sha256": source_digest(demonstrations),
        "episodes": len(demonstrations),
        "kind": f"{dataset.kind} {dataset.version}".rstrip(),
        "metadata": as_json(dataset.metadata),
    }
    provenance = {
        "command": command_line("convert", config),
        "version": __version__,
        "sources": [source],
        "mapping": mapping.to_json(),
        "episodes": config.episodes,
    }
    digests = copy(demonstrations, out, images=config.images, provenance=provenance)
    _write_proof(out, dataset, demonstrations, digests, source)
    print(
        f"{len(demonstrations)} episodes, {demonstrations.num_steps} steps in {out}: every stream was read back and is "
        "what was read from the source"
    )
    print(f"proof: {_proof(out)}{_draw_ends(demonstrations, out)}")
    print_next(shown("inspect", str(out)))


def _guesses(mapping: DatasetMapping) -> list[str]:
    """How a mapping reads a data set, in lines."""
    from ..datasets.copying import printable

    lines = [f"  {name} is {' and '.join(mapped.keys)}" for name, mapped in mapping.streams.items()]
    lines.append(
        f"  the action means {mapping.action.meaning}, of the {mapping.action.of}, {mapping.rate:g} steps a second"
    )
    lines += [f"  {key} is left out: {reason}" for key, reason in mapping.left_out.items()]
    return [printable(line) for line in lines]


def _proof(out: Path) -> Path:
    """The file of the proof of a conversion: beside the store, because nothing else is written among demonstrations."""
    return out.with_name(f"{out.name}.conversion.json")


def _write_proof(
    out: Path,
    dataset: ForeignDataset,
    demonstrations: Demonstrations,
    digests: list[dict[str, str]],
    source: Mapping[str, Any],
) -> None:
    """Write, for each episode, its name in the source, its length, its facts and the SHA-256 of each stream."""
    table = (demonstrations.episode_numbers, demonstrations.episode_lengths, demonstrations.episode_facts, digests)
    episodes = [
        {"source": dataset.episode_name(int(number)), "steps": int(length), "facts": facts.to_json(), "sha256": streams}
        for number, length, facts, streams in zip(*table, strict=True)
    ]
    write_json(_proof(out), {"source": source, "episodes": episodes})


def _draw_ends(demonstrations: Demonstrations, out: Path) -> str:
    """Draw the first and the last frames of source and store, if there are images; returns the words that say so."""
    from ..datasets.store import DemonstrationStore
    from ..evaluation.reports.demonstrations import draw_ends

    if not any(stream.is_image for stream in demonstrations.specification.observations):
        return ""
    picture = _proof(out).with_suffix(".png")
    draw_ends(demonstrations, DemonstrationStore.open(out), picture)
    return f", and its first and last frames: {picture}"


def _verify(config: ConvertConfig, dataset: ForeignDataset) -> None:
    """Read source and store again, by the mapping that the store keeps, and compare every stream of every episode."""
    from ..datasets.copying import verify
    from ..datasets.formats.resampled import evened
    from ..datasets.mapping import DatasetMapping
    from ..datasets.store import DemonstrationStore

    store = DemonstrationStore.open(str(config.out))
    provenance = store.provenance or {}
    if "mapping" not in provenance:
        raise ValueError(f"{store.path} was not made by recede convert: convert the data set into another out=")
    mapping = DatasetMapping.from_json(provenance["mapping"], f"the mapping that {store.path} keeps")
    for name, kept in (("rate", mapping.rate), ("episodes", provenance.get("episodes"))):
        if getattr(config, name) not in (None, kept):
            raise ValueError(
                f"{store.path} was made with {name}={kept}, got {name}={getattr(config, name)}: leave out {name}="
            )
    if config.mapping is not None and _mapping(config, dataset) != mapping:
        raise ValueError(
            f"{store.path} was made by another mapping than {config.mapping} holds now: leave out mapping= to compare "
            "it by its own, or convert again into another out="
        )
    dataset = evened(dataset, mapping)
    demonstrations = _converted(dataset, mapping, provenance.get("episodes"))
    verify(demonstrations, store)
    streams = len(store.specification.streams)
    print(
        f"verified: {len(store)} episodes of {store.path} hold in {streams} streams exactly what {dataset.path} holds"
    )


def _export(config: ConvertConfig) -> None:
    """Write a store as a data set of LeRobot, or compare it with an earlier one."""
    from ..datasets.copying import source_digest
    from ..datasets.formats.lerobot_comparison import compare
    from ..datasets.formats.lerobot_export import export, exported
    from ..datasets.opening import open_demonstrations

    out = Path(str(config.out))
    demonstrations = open_demonstrations(config.source, episodes=config.episodes)
    features = exported(demonstrations.specification, video=config.video)
    if config.verify:
        agreements = compare(demonstrations, out)
    else:
        if out.exists() or out.is_symlink():
            raise ValueError(f"out={out} exists already: give another out=, or add verify=true to compare it")
        check_writable(out.parent)
        for feature in features:
            if feature.dtype not in ("image", "video", feature.stream.dtype):
                stream = feature.stream
                print(f"{stream.name}: {stream.dtype} is written as {feature.dtype}, which holds the same values")
        if not (rate := 1 / demonstrations.specification.control_dt).is_integer():
            print(f"fps is {rate:g}: tools of LeRobot may expect a whole number")
        source = {"path": config.source, "sha256": source_digest(demonstrations)}
        provenance = {"command": command_line("convert", config), "version": __version__, "source": source}
        agreements = export(demonstrations, out, video=config.video, provenance=provenance)
    print(
        f"{len(demonstrations)} episodes, {demonstrations.num_steps} steps in {out}: every "
        f"{'stream' if not agreements else 'vector'} was read back and is what {config.source} holds"
    )
    print("".join(f"{_agreement(agreement)}\n" for agreement in agreements), end="")
    if not config.verify:
        print_next(shown("convert", str(out), out=f"data/{out.resolve().name}.zarr"))


def _agreement(agreement: Agreement) -> str:
    return (
        f"{agreement.stream}: the video differs from the images, PSNR {agreement.psnr:.1f} dB over all frames, "
        f"{agreement.worst:.1f} dB in the worst (episode {agreement.episode}, step {agreement.step})"
    )
