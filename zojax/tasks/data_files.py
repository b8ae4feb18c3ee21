"""Finds the files of a split, named as one's own data or as in a clone of the hub's."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from zojax.errors import InputError, first_few
from zojax.reading import is_file
from zojax.tasks.file_kinds import refuse_other_kinds
from zojax.tasks.records import FORMATS, format_of
from zojax.text import plain

_SPLITS = ("train", "validation", "test")
_SHARD = re.compile(
    r"(?P<split>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]+)?\.(jsonl|csv|parquet)"
)


def find_files(directory: Path, split: str, name: str | None = None) -> list[Path]:
    """The files of a split in their order; none if there are none.

    A split is one file, ``{split}.jsonl``, ``.csv`` or ``.parquet``, or the shards that the hub
    keeps, ``{split}-00000-of-00002.parquet``. They are in the directory or, as in a clone of a data
    set of the hub, in ``data`` or a folder named for the configuration.

    Args:
        directory: the value of ``data.path``.
        split: the split's name.
        name: the name of the data set's configuration.

    Raises:
        InputError: there is no such directory, it has a split twice, or a shard is missing.
    """
    if not directory.is_dir():
        named = "file" if directory.suffix.lower().lstrip(".") in FORMATS else "directory"
        what = "is a file" if is_file(directory) else f"no such {named}"
        raise InputError(
            f"data.path={str(directory)!r}: {what}; give a directory that holds {split}.jsonl, "
            f"{split}.csv or {split}.parquet"
        )
    for folder in _folders(directory, name):
        if found := _find_in(folder, split):
            return found
    return []


def is_table(path: Path) -> bool:
    """Whether ``data.path`` is a table itself, which a user's own data may be.

    Raises:
        InputError: it is a file of another format.
    """
    if not is_file(path):
        return False
    if format_of(path) not in FORMATS:
        refuse_other_kinds(path)
        raise InputError(
            f"{plain(path)}: is no table that can be read; save it as .jsonl, .csv or .parquet"
        )
    return True


def possible_files(directory: Path, name: str | None = None) -> list[Path]:
    """All files that a run could read in a directory, whether they are there or not."""
    return [
        path
        for folder in _folders(directory, name)
        for path in [
            *(folder / f"{split}.{form}" for split in _SPLITS for form in FORMATS),
            *(folder / file for file in _names(folder) if _SHARD.fullmatch(file)),
        ]
    ]


def missing(directory: Path, split: str) -> InputError:
    """The error for a split that has no file; it names what there is."""
    names = sorted(_names(directory), key=lambda file: (not file.startswith(split), file))
    there = f"there are {first_few(names, 5, 60)}" if names else "it is empty"
    if "dataset_dict.json" in names:
        there += f"; write what save_to_disk has saved with to_parquet('{split}.parquet')"
    return InputError(
        f"{plain(directory / split)}.jsonl: no such file, and data.path={str(directory)!r} should "
        f"have it, or {split}.csv, {split}.parquet or {split}-00000-of-00001.parquet; {there}"
    )


def _folders(directory: Path, name: str | None) -> list[Path]:
    return [directory, *(directory / folder for folder in (name, "data") if folder)]


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _find_in(folder: Path, split: str) -> list[Path]:
    whole = [path for f in FORMATS if os.path.lexists(path := folder / f"{split}.{f}")]
    shards = [found for file in sorted(_names(folder)) if (found := _SHARD.fullmatch(file))]
    shards = [shard for shard in shards if shard["split"] == split]
    sets = _sets(shards)
    if len(whole) + len(sets) > 1:
        names = " and ".join([*(path.name for path in whole), *(s[0][0] for s in sets)])
        raise InputError(f"data.path={str(folder)!r}: holds {names}; leave one of them")
    for shards in sets:
        _check_whole(folder, shards)
        return [folder / shard[0] for shard in shards]
    return whole


def _sets(shards: Iterable[re.Match[str]]) -> list[list[re.Match[str]]]:
    """Shards by what they are shards of: their number, and their format."""
    sets: dict[tuple[str, str], list[re.Match[str]]] = {}
    for shard in shards:
        sets.setdefault((shard["count"], Path(shard[0]).suffix), []).append(shard)
    return list(sets.values())


def _check_whole(folder: Path, shards: list[re.Match[str]]) -> None:
    split, count = shards[0]["split"], shards[0]["count"]
    there = [int(shard["index"]) for shard in shards]
    lacking = [i for i in range(int(count)) if i not in set(there)]
    if lacking:
        names = first_few((f"{split}-{i:05}-of-{count}" for i in lacking), 3, 60)
        raise InputError(
            f"data.path={str(folder)!r}: {len(lacking):,} of {int(count):,} files of {split!r} are "
            f"missing: {names}"
        )
    if len(there) > int(count):
        raise InputError(
            f"data.path={str(folder)!r}: holds more than {int(count):,} files of {split!r}, such "
            f"as {first_few((shard[0] for shard in shards), 3, 80)}; leave one of each number"
        )
