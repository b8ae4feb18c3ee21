"""Where each tensor of a Hugging Face checkpoint lives in the weight tree, and which must exist.

The tree mirrors the checkpoint's names after the family's prefix, with the layers stacked on a
leading axis: ``model.decoder.layers.3.fc1.weight`` is row 3 of ``("layers", "fc1", "weight")``.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from zojax.errors import InputError
from zojax.hub.checkpoint_files import CheckpointFile
from zojax.hub.stored import shown
from zojax.models.branches import STACKED
from zojax.models.family import DecoderConfig
from zojax.models.model import abstract
from zojax.models.precision import SCALE, TreePath
from zojax.models.registry import family_of

Location = tuple[TreePath, int | None]
"""Where a checkpoint's tensor lives: its path in the tree, and its layer if it is stacked."""


def tensor_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a checkpoint, by its Hugging Face name."""
    shapes = abstract(config)[1]
    return {
        name: shapes[path] if layer is None else shapes[path][1:]
        for name, (path, layer) in hf_names(shapes, config).items()
    }


def hf_names(paths: Iterable[TreePath], config: DecoderConfig) -> dict[str, Location]:
    """Maps each tensor's name in the checkpoint to its location, with the layers last, in order."""
    prefix = family_of(config).prefix
    paths = [path for path in paths if path[-1] != SCALE]  # scales are computed from matrices
    names: dict[str, Location] = {}
    for path in paths:
        if path[0] != STACKED:
            before = "" if path[0] == "lm_head" else prefix
            names[before + ".".join(path)] = (path, None)
    for layer in range(config.num_hidden_layers):
        for path in paths:
            if path[0] == STACKED:
                names[f"{prefix}{STACKED}.{layer}.{'.'.join(path[1:])}"] = (path, layer)
    return names


def match(
    files: Sequence[CheckpointFile],
    config: DecoderConfig,
    shapes: Mapping[TreePath, tuple[int, ...]],
    described_by: Path,
) -> list[tuple[CheckpointFile, str, Location]]:
    """Pairs every tensor in the files with its location; ``InputError`` if one does not fit."""
    _check_depth(files, config, described_by)
    family, wanted = family_of(config), hf_names(shapes, config)
    locations: dict[str, tuple[CheckpointFile, str, Location]] = {}
    tied_head = None
    for file in files:
        for stored in file.tensors.values():
            name = stored.name
            if name.endswith(family.ignored) or name.startswith(family.ignored_starts):
                continue
            name = _without_alias(stored.name, family.aliases)
            tied = name == "lm_head.weight" and name not in wanted
            location = (("embed_tokens", "weight"), None) if tied else wanted.get(name)
            if location is None:
                raise InputError(
                    f"{file.path}: extra tensor {shown(stored.name)} {stored.shape}, which the "
                    f"model of {described_by} does not have"
                )
            path, layer = location
            shape = shapes[path] if layer is None else shapes[path][1:]
            if stored.shape != shape:
                raise InputError(
                    f"{file.path}: tensor {shown(stored.name)} has shape {stored.shape}, "
                    f"{described_by.name} asks for {shape}"
                )
            if name in locations:
                raise InputError(
                    f"{file.path}: tensor {shown(stored.name)} is also in {locations[name][0].path}"
                )
            if tied:
                tied_head = (file, stored.name, location)
            else:
                locations[name] = (file, stored.name, location)
    if tied_head is not None:
        # A tied head repeats the embedding; some converters keep the head and drop the embedding.
        locations.setdefault(f"{family.prefix}embed_tokens.weight", tied_head)
    for name, (path, layer) in wanted.items():
        if name not in locations:
            shape = shapes[path] if layer is None else shapes[path][1:]
            raise InputError(
                f"{', '.join(str(file.path) for file in files[:1])}"
                f"{' and its other shards' if len(files) > 1 else ''}: lacks tensor {name} {shape}"
            )
    return list(locations.values())


def _check_depth(
    files: Sequence[CheckpointFile], config: DecoderConfig, described_by: Path
) -> None:
    """Raises if config.json has more layers than the files, before any names are listed."""
    family = family_of(config)
    start = f"{family.prefix}{STACKED}."
    names = (_without_alias(name, family.aliases) for file in files for name in file.tensors)
    found = {name.removeprefix(start).partition(".")[0] for name in names if name.startswith(start)}
    if config.num_hidden_layers > len(found):
        raise InputError(
            f"{described_by}: num_hidden_layers is {config.num_hidden_layers:,}, but "
            f"the weights have {len(found):,} layers"
        )


def _without_alias(name: str, aliases: Mapping[str, str]) -> str:
    found = (start for start in aliases if name.startswith(start))
    start = next(found, "")
    return aliases.get(start, "") + name.removeprefix(start)
