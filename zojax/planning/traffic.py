"""What a compiled program moves: data between devices, and copies of weights within a device."""

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
        kind: the operation, such as ``all-reduce``.
        num_bytes: the bytes of its result on a device.
        devices: the number of devices that exchange with one another.
        times: how often it happens in one run of the program.
    """

    kind: str
    num_bytes: int
    devices: int
    times: int

    @property
    def sent_bytes(self) -> float:
        """The least bytes that a device sends in one run of the program, around a ring."""
        others = self.devices - 1
        share = others / self.devices if self.devices else 0.0
        once = {
            "all-reduce": 2 * share,
            "reduce-scatter": others,  # its result is only a share of the sum
            "all-gather": share,
            "all-to-all": share,
        }
        return self.times * self.num_bytes * once.get(self.kind, 1.0)


class Copy(NamedTuple):
    """A write by a program that is as large as a weight.

    Attributes:
        name: the instruction's name.
        opcode: the instruction's opcode.
        num_bytes: the bytes of one write.
        times: how often it happens in one run of the program.
        whole: whether it has all layers of a matrix (or a table), not just one layer.
    """

    name: str
    opcode: str
    num_bytes: int
    times: int
    whole: bool


def collectives(program: Program, num_devices: int) -> list[Collective]:
    """Find every exchange of a program; an asynchronous one counts once.

    Args:
        program: the parsed program.
        num_devices: the number of devices that it runs on.
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
    """The arrays that an instruction makes, without the operands that a "-start" lists, too."""
    arrays = instruction.arrays
    if instruction.opcode == "copy-start":
        return arrays[:1]
    if instruction.opcode in ("all-gather-start", "collective-permute-start") and len(arrays) > 1:
        return arrays[1:2] if len(arrays) % 2 else arrays[len(arrays) // 2 :]
    return arrays


def _group_size(instruction: Instruction, num_devices: int) -> int:
    """The number of devices in each of an exchange's groups, which have equal sizes."""
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=", instruction.rest):
        return int(iota[1].split(",")[-1])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", instruction.rest):
        return len(listed[1].split(","))
    return num_devices


def weight_copies(program: Program, shapes: Iterable[tuple[int, ...]]) -> list[Copy]:
    """Find every write of a program to main memory that is as large as a weight.

    Writes into an array in place do not count, such as a loop's carry or the rows that a fold
    moves.

    Args:
        program: the parsed program.
        shapes: the shapes of the weights' shares on a device, without vectors; stacked layers are
            the first axis.
    """
    wholes = {_sorted(shape) for shape in shapes}
    layers = {_sorted(shape[1:]) for shape in shapes if len(shape) == 3}
    sizes = {math.prod(shape) for shape in wholes | layers}

    def is_weights(opcode: str, dims: tuple[int, ...]) -> bool:
        """Decide by the sides; for a plain copy by the size; for a gather by at least the size."""
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
    """The arrays that an instruction writes to new memory, and not to an operand's."""
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
    """For every kind, per run: the number, the bytes of the results, and those a device sends."""
    sums: dict[str, list[float]] = collections.defaultdict(lambda: [0, 0, 0.0])
    for one in found:
        for i, amount in enumerate((one.times, one.times * one.num_bytes, one.sent_bytes)):
            sums[one.kind][i] += amount
    return {kind: (int(n), int(size), sent) for kind, (n, size, sent) in sorted(sums.items())}
