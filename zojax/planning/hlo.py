"""Parse XLA's optimised program: every instruction that runs, and how often."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple


class Array(NamedTuple):
    """One array of an instruction's result.

    Attributes:
        dtype: the dtype in HLO's notation.
        dims: the shape.
        in_cache: whether it lies in another memory than the device's main one (a TPU's VMEM).
    """

    dtype: str
    dims: tuple[int, ...]
    in_cache: bool

    @property
    def num_bytes(self) -> int:
        """The number of bytes of its entries, without padding from the layout."""
        bits = re.search(r"\d+", self.dtype)
        return math.prod(self.dims) * (max(8, int(bits[0])) // 8 if bits else 1)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program.

    Attributes:
        name: the name, unique in its program.
        opcode: the operation, such as ``fusion``.
        arrays: the arrays of its result.
        rest: the text of its operands and attributes.
        is_root: whether it gives its computation's result.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    rest: str
    is_root: bool

    def called(self, *attributes: str) -> list[str]:
        """The computations that these attributes name."""
        names = []
        for attribute in attributes:
            for one, many in re.findall(rf"\b{attribute}=(?:%?([\w.\-]+)|{{([^}}]*)}})", self.rest):
                names += [one] if one else [n.strip().lstrip("%") for n in many.split(",")]
        return names


class Program(NamedTuple):
    """A parsed program.

    Attributes:
        computations: the instructions of each computation, in order, by its name.
        entry: the name of the computation that runs first.
    """

    computations: Mapping[str, list[Instruction]]
    entry: str


_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"(?:^| )([a-z][a-z0-9\-]*)\(")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")


def parse(text: str) -> Program:
    """Parse ``compiled.as_text()``."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        header = None if line.startswith((" ", "HloModule")) else _HEADER.match(line)
        if header:
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif current is not None and (match := _LINE.match(line)):
            current.append(_instruction(match[2], match[3], bool(match[1])))
    return Program(computations, entry)


def _instruction(name: str, text: str, is_root: bool) -> Instruction:
    found = _OPCODE.search(text)
    opcode, result, rest = "", text, ""
    if found:
        opcode, result, rest = found[1], text[: found.start()], text[found.end() :]
    arrays = tuple(
        Array(dtype, tuple(int(n) for n in dims.split(",") if n), "S(1)" in layout)
        for dtype, dims, layout in _ARRAY.findall(result)
    )
    return Instruction(name, opcode, arrays, rest, is_root)


def executed(program: Program) -> Iterator[tuple[Instruction, int]]:
    """Yield every instruction that is not fused into another, and how often it runs.

    All branches of a conditional count, and the body of a loop of unknown length counts once.
    """
    times: collections.Counter[str] = collections.Counter()
    _count(program, program.entry, 1, times)
    for name, count in times.items():
        for instruction in program.computations[name]:
            yield instruction, count


def _count(program: Program, name: str, times: int, counted: collections.Counter[str]) -> None:
    counted[name] += times
    for instruction in program.computations.get(name, ()):
        if instruction.opcode == "while":
            repeats = trip_count(program, instruction)
            for body in instruction.called("body"):
                _count(program, body, times * repeats, counted)
        elif instruction.opcode in ("call", "conditional") or "async" in instruction.opcode:
            for callee in instruction.called(
                "calls",
                "to_apply",
                "called_computations",
                "branch_computations",
                "true_computation",
                "false_computation",
            ):
                _count(program, callee, times, counted)


def trip_count(program: Program, loop: Instruction) -> int:
    """How often a loop's body runs, from XLA's annotation or the constant in its condition."""
    noted = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
    if noted:
        return int(noted[1])
    [condition] = loop.called("condition")
    constants = [
        int(found[1])
        for instruction in program.computations.get(condition, ())
        if instruction.opcode == "constant" and (found := re.match(r"(\d+)\)", instruction.rest))
    ]
    return max(constants, default=1)


def results(program: Program, computation: str) -> list[Instruction]:
    """The instructions that give a computation's result, one for each part of a tuple."""
    by_name = {i.name: i for i in program.computations.get(computation, ())}
    roots = [i for i in by_name.values() if i.is_root]
    if len(roots) == 1 and roots[0].opcode == "tuple":
        names = re.findall(r"%?([\w.\-]+)(?=[,)])", roots[0].rest.partition(")")[0] + ")")
        return [by_name[name] for name in names if name in by_name]
    return roots
