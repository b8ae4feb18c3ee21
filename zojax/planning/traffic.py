"""What a compiled program moves: between devices, and of the weights in a device's own memory."""

import collections
import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from zojax.planning.hlo import Array, Instruction, Program, executed, results

_COLLECTIVES = {
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
}


class Collective(NamedTuple):
    """One exchange between devices.

    Attributes:
        kind: such as ``all-reduce``.
        num_bytes: of its result on a device.
        devices: that exchange with one another.
        times: a run of the program.
    """

    kind: str
    num_bytes: int
    devices: int
    times: int

    @property
    def sent_bytes(self) -> float:
        """What a device sends at the least in one run of the program, around a ring."""
        others = self.devices - 1
        share = others / self.devices if self.devices else 0.0
        once = {
            "all-reduce": 2 * share,
            "reduce-scatter": others,  # its result is a share of what is added up
            "all-gather": share,
            "all-to-all": share,
        }
        return self.times * self.num_bytes * once.get(self.kind, 1.0)


class Copy(NamedTuple):
    """Something as large as a weight that a program writes.

    Attributes:
        name: of the instruction.
        opcode: of it.
        num_bytes: that are written once.
        times: a run of the program.
        whole: whether it is all layers of a matrix (or a table) and not one layer of it.
    """

    name: str
    opcode: str
    num_bytes: int
    times: int
    whole: bool


def collectives(program: Program, num_devices: int) -> list[Collective]:
    """Every exchange of a program; one that starts and is waited for later counts once.

    Args:
        program: parsed.
        num_devices: that it runs on.
    """
    found = []
    for instruction, times in executed(program):
        kind = instruction.opcode.removesuffix("-start")
        if kind not in _COLLECTIVES:
            continue
        num_bytes = sum(array.num_bytes for array in _results(instruction))
        found.append(Collective(kind, num_bytes, _group_size(instruction, num_devices), times))
    return found


def _results(instruction: Instruction) -> Sequence[Array]:
    """What an instruction makes; one that starts has its operands beside that."""
    arrays = instruction.arrays
    if instruction.opcode == "copy-start":
        return arrays[:1]
    if instruction.opcode in ("all-gather-start", "collective-permute-start") and len(arrays) > 1:
        return arrays[1:2] if len(arrays) % 2 else arrays[len(arrays) // 2 :]
    return arrays


def _group_size(instruction: Instruction, num_devices: int) -> int:
    """Devices in each of an exchange's groups, which are of one size."""
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=", instruction.rest):
        return int(iota[1].split(",")[-1])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", instruction.rest):
        return len(listed[1].split(","))
    return num_devices


def weight_copies(program: Program, shapes: Iterable[tuple[int, ...]]) -> list[Copy]:
    """Everything a program writes to main memory that is as large as a weight.

    What it writes into an array in place is not: a loop's carry, or the rows that a fold moves.

    Args:
        program: parsed.
        shapes: of the weights' share on a device: layers first where they are stacked, and no
            vectors.
    """
    wholes = {_sorted(shape) for shape in shapes}
    layers = {_sorted(shape[1:]) for shape in shapes if len(shape) == 3}
    sizes = {math.prod(shape) for shape in wholes | layers}

    def is_weights(opcode: str, dims: tuple[int, ...]) -> bool:
        """By its sides; of what only moves entries by their number, and of what gathers by more."""
        size = math.prod(dims)
        moved = opcode in ("copy", "transpose") and size in sizes
        gathered = opcode == "all-gather" and size >= min(sizes)
        return dims in wholes or dims in layers or moved or gathered

    found = []
    for instruction, times in executed(program):
        for array in _written(program, instruction):
            dims, opcode = _sorted(array.dims), instruction.opcode
            if not array.in_cache and is_weights(opcode.removesuffix("-start"), dims):
                whole = dims not in layers
                found.append(Copy(instruction.name, opcode, array.num_bytes, times, whole))
    return found


_IN_PLACE = {
    "parameter",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "while",
    "conditional",
    "call",
    "dynamic-update-slice",
    "optimization-barrier",
    "constant",
}


def _written(program: Program, instruction: Instruction) -> Sequence[Array]:
    """What an instruction makes in memory of its own, and not in that of an operand."""
    opcode, arrays = instruction.opcode, _results(instruction)
    if opcode in _IN_PLACE or opcode.endswith(("-done", "-update")):
        return ()
    if opcode != "fusion":
        return arrays
    parts = results(program, instruction.called("calls")[0])
    if len(parts) != len(arrays):
        return arrays
    return [
        array for array, made in zip(arrays, parts, strict=True) if made.opcode not in _IN_PLACE
    ]


def _sorted(dims: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(n for n in dims if n != 1))


def by_kind(found: Iterable[Collective]) -> dict[str, tuple[int, int, float]]:
    """Of every kind: how many a run, the bytes of their results, and what a device sends."""
    sums: dict[str, list[float]] = collections.defaultdict(lambda: [0, 0, 0.0])
    for one in found:
        for i, amount in enumerate((one.times, one.times * one.num_bytes, one.sent_bytes)):
            sums[one.kind][i] += amount
    return {kind: (int(n), int(size), sent) for kind, (n, size, sent) in sorted(sums.items())}
