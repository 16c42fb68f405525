"""Reading XLA's text: loops and how often they turn, estimated cycles, kernels, collectives.

Two texts of one program are read. The one right after the SPMD partitioner has every collective as
the sharding asks for it; later passes fuse, split and hide them. The optimised one has the TPU
compiler's own estimate of each fusion's cycles.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Iterator

import numpy as np

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
_COLLECTIVE = {**{kind: kind for kind in KINDS}, **{f"{kind}-start": kind for kind in KINDS}}
_SIZES = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "f64": 8}  # others say it: s8, u32, f8e4m3

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
# "  ROOT %name = shape opcode(operands...), attributes": a shape has no word right before "(".
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ?([a-z][a-z0-9\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_LIMIT = re.compile(r"\b[su]\d+\[\]\S* constant\((\d+)\)")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}")
_IOTA_GROUPS = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_LISTED_GROUPS = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_STATED = re.compile(r'"cost_estimate":\{"flops":"(\d+)",.*?"bytes_accessed":"(\d+)"')
_PAIRS = re.compile(r"source_target_pairs=\{(\{[\d,{}]*\})\}")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: without the percent sign.
      shape: the result's, as text; a tuple's is in parentheses.
      opcode: "fusion", "while", ...
      rest: operands and attributes, all that follows the opening parenthesis.
    """

    name: str
    shape: str
    opcode: str
    rest: str

    @property
    def operands(self) -> tuple[str, ...]:
        return tuple(re.findall(r"%([\w.\-]+)", self.rest.split("), ")[0]))

    def attribute(self, name: str) -> str:
        """Returns the computation that an attribute such as body= names, or ""."""
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.rest)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Collective:
    """Traffic between chips that one run of the program causes.

    Attributes:
      kind: one of KINDS.
      count: how often it is done.
      bytes: that each chip sends, all of the times together.
      group: the devices that take part, as indices into the mesh, of one of the alike groups.
    """

    kind: str
    count: int
    bytes: float
    group: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Kernels:
    """Pallas kernels, which the compiler does not estimate.

    Attributes:
      flops: that one device does in splash attention, with the blocks on the diagonal whole.
      unknown: how often a kernel runs whose work is not known here; it is left out.
      stated_bytes: that the other kernels say they move to and from memory.
      stated_flops: for which they say they keep the matrix unit busy.
    """

    flops: float
    unknown: int
    stated_bytes: float = 0.0
    stated_flops: float = 0.0


class Module:
    """The computations of one program's text."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        current: list[Instruction] = []
        for line in text.splitlines():
            if header := _COMPUTATION.match(line):
                current = self.computations.setdefault(header[2], [])
                self.entry = header[2] if header[1] else self.entry
            elif found := _INSTRUCTION.match(line):
                current.append(Instruction(*found.groups()))
        if not self.entry:
            raise ValueError("the text has no ENTRY computation: it is no HLO module")

    def walk(self, start: str = "") -> Iterator[tuple[str, Instruction, int]]:
        """Yields (computation, instruction, times it runs) of all that runs on its own.

        What is inside a fusion belongs to the fusion. A loop whose end is decided by data is taken
        to turn once. It begins with the program, or with a computation of that name.
        """
        yield from self._walk(start or self.entry, 1)

    def open_loop(self) -> str:
        """Returns the body of the program's one loop that data end, such as decoding.

        Raises:
          ValueError: there is none, or more than one.
        """
        loops = [i for i in self.computations[self.entry] if i.opcode == "while"]
        bodies = [i.attribute("body") for i in loops if self._known_trip_count(i) is None]
        if len(bodies) != 1:
            raise ValueError(f"the program has {len(bodies)} loops that data end: expected one")
        return bodies[0]

    def _walk(self, name: str, times: int) -> Iterator[tuple[str, Instruction, int]]:
        for instruction in self.computations[name]:
            yield name, instruction, times
            if instruction.opcode == "while":
                turns = times * self.trip_count(instruction)
                yield from self._walk(instruction.attribute("body"), turns)
            elif instruction.opcode == "call":
                yield from self._walk(instruction.attribute("to_apply"), times)

    def trip_count(self, loop: Instruction) -> int:
        """Returns how often a loop turns; 1 for a loop that data end."""
        return self._known_trip_count(loop) or 1

    def _known_trip_count(self, loop: Instruction) -> int | None:
        """Reads what the compiler says, or "index < constant" and the index's stride."""
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest)
        if known:
            return int(known[1])
        condition = self.computations[loop.attribute("condition")]
        compares = [i for i in condition if i.opcode == "compare" and "direction=LT" in i.rest]
        by_name = {i.name: i for i in condition}
        for compare in compares:
            left, right = (by_name.get(name) for name in compare.operands[:2])
            limit = right and _LIMIT.search(f"{right.shape} {right.opcode}({right.rest}")
            if left and limit and (index := re.search(r"index=(\d+)", left.rest)):
                stride = self._stride(loop.attribute("body"), int(index[1]))
                return math.ceil(int(limit[1]) / stride)
        return None

    def _stride(self, body: str, index: int) -> int:
        """Returns by how much a loop's body advances element `index` of its tuple."""
        instructions = self.computations[body]
        by_name = {i.name: i for i in instructions}
        root = instructions[-1]
        if root.opcode != "tuple" or index >= len(root.operands):
            return 1
        added = by_name.get(root.operands[index])
        if added is None or added.opcode != "add":
            return 1
        for name in added.operands:
            constant = by_name.get(name)
            if constant and constant.opcode == "constant":
                return max(1, int(re.match(r"\d+", constant.rest)[0]))  # pyright: ignore
        return 1


# In what follows `start` names the computation that is counted, "" the whole program.


def estimated_cycles(module: Module, start: str = "") -> float:
    """Returns the cycles of one run on one device, by the compiler's estimate of each fusion."""
    total = 0
    for _, instruction, times in module.walk(start):
        found = re.search(r'"estimated_cycles":"(\d+)"', instruction.rest)
        total += int(found[1]) * times if found else 0
    return float(total)


def kernels(module: Module, start: str = "") -> Kernels:
    """Returns what the program's Pallas kernels do.

    Splash attention has two matrix products forward, three backward for the queries' gradients and
    four for those of keys and values, over the blocks that causality leaves: with queries and keys
    of the same length (n + 1) / 2n of n x n blocks. Other kernels say what they do in their cost
    estimate, as ours of decode steps does.
    """
    flops, unknown, stated_bytes, stated_flops = 0.0, 0, 0.0, 0.0
    products = {"splash_mha_fwd": 2, "splash_mha_dq": 3, "splash_mha_dkv": 4}
    for _, instruction, times in module.walk(start):
        if 'custom_call_target="tpu_custom_call"' not in instruction.rest:
            continue
        count = next((n for name, n in products.items() if name in instruction.name), 0)
        if not count and (stated := _STATED.search(instruction.rest)):
            stated_flops += times * int(stated[1])
            stated_bytes += times * int(stated[2])
            continue
        layouts = re.search(r"operand_layout_constraints=\{(.*?\})\}", instruction.rest)
        arrays = [dims for _, dims in _arrays(layouts[1] if layouts else "") if len(dims) >= 3]
        arrays = [dims for dims in arrays if len(dims) == max(map(len, arrays))]
        if not count or len(arrays) < 2:
            unknown += times
            continue
        query, keys = arrays[:2]
        blocks = max(1, keys[-2] // 512)
        share = (blocks + 1) / (2 * blocks)
        whole = 2.0 * math.prod(query) * keys[-2]
        flops += times * count * whole * share
    return Kernels(flops, unknown, stated_bytes, stated_flops)


def collectives(module: Module, start: str = "") -> list[Collective]:
    """Returns the collectives of one run, those of like kind and group added up.

    An all-reduce of which a device keeps one slice is a reduce-scatter: the TPU compiler makes it
    one. Equal gathers of the same array within a computation are one, as they will be.
    """
    sliced, repeated = _only_sliced(module), _repeated(module)
    counts: collections.Counter[tuple[str, tuple[int, ...]]] = collections.Counter()
    sent: dict[tuple[str, tuple[int, ...]], float] = collections.defaultdict(float)
    for where, instruction, times in module.walk(start):
        kind = _COLLECTIVE.get(instruction.opcode)
        if kind is None or (where, instruction.name) in repeated:
            continue
        if kind == "all-reduce" and (where, instruction.name) in sliced:
            kind = "reduce-scatter"
        group = _group(instruction.rest)
        size = sum(_bytes(name, dims) for name, dims in _arrays(instruction.shape))
        if instruction.opcode.endswith("-start") and instruction.shape.startswith("("):
            size /= 2  # of (operand, result)
        if len(group) > 1:
            counts[kind, group] += times
            sent[kind, group] += times * _sent(kind, size, len(group), instruction)
    return [Collective(kind, counts[kind, g], sent[kind, g], g) for kind, g in counts]


def _sent(kind: str, size: float, devices: int, instruction: Instruction) -> float:
    """Returns the bytes that each device of a ring sends, for a result of `size` bytes."""
    share = (devices - 1) / devices
    if kind == "all-reduce":
        return 2 * size * share
    if kind == "reduce-scatter" and instruction.opcode.startswith("reduce-scatter"):
        return size * (devices - 1)
    return size if kind == "collective-permute" else size * share


def _only_sliced(module: Module) -> set[tuple[str, str]]:
    """Returns (computation, all-reduce) of which only a dynamic slice is used."""
    users: dict[tuple[str, str], set[str]] = collections.defaultdict(set)
    for name, instructions in module.computations.items():
        reduces = {i.name for i in instructions if i.opcode == "all-reduce"}
        for instruction in instructions if reduces else ():
            for operand in reduces.intersection(instruction.operands):
                users[name, operand].add(instruction.opcode)
    return {key for key, opcodes in users.items() if opcodes == {"dynamic-slice"}}


def _repeated(module: Module) -> set[tuple[str, str]]:
    """Returns (computation, collective) that does what one before it in the computation does."""
    found: set[tuple[str, str]] = set()
    for name, instructions in module.computations.items():
        seen: set[tuple[str, str, str]] = set()
        for i in instructions:
            if i.opcode in _COLLECTIVE:
                what = re.sub(r"channel_id=\d+", "", i.rest.split(", metadata=")[0])
                same = (i.opcode, i.shape, what)
                found |= {(name, i.name)} if same in seen else set()
                seen.add(same)
    return found


def _arrays(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """Returns (type, dimensions) of every array in a shape."""
    found = _ARRAY.findall(text)
    return [(name, tuple(int(n) for n in dims.split(",") if n)) for name, dims in found]


def _bytes(name: str, dimensions: tuple[int, ...]) -> float:
    digits = re.search(r"\d+", name)
    size = _SIZES.get(name) or (int(digits[0]) / 8 if digits else 1)
    return size * math.prod(dimensions)


def _group(rest: str) -> tuple[int, ...]:
    """Returns the first replica group, in any of the ways in which XLA writes them.

    mesh['a'=2,'b'=4] {'b'}, [2,4]<=[8] and {{0,1,2,3},{4,5,6,7}} all give (0, 1, 2, 3).
    """
    readers: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], tuple[int, ...]]], ...] = (
        (_MESH_GROUPS, _mesh_group),
        (_IOTA_GROUPS, _iota_group),
        (_LISTED_GROUPS, lambda m: tuple(int(n) for n in m[1].split(",") if n)),
        (_PAIRS, _first_pair),
    )
    for pattern, read in readers:
        if found := pattern.search(rest):
            return read(found)
    return ()


def _first_pair(found: re.Match[str]) -> tuple[int, ...]:
    """Returns the first pair of two devices; a device that keeps its own sends nothing."""
    pairs = re.findall(r"\{(\d+),(\d+)\}", found[1])
    return next(((int(a), int(b)) for a, b in pairs if a != b), ())


def _mesh_group(found: re.Match[str]) -> tuple[int, ...]:
    axes = dict(re.findall(r"'([^']+)'=(\d+)", found[1]))
    shape = [int(n) for n in axes.values()]
    used = re.findall(r"'([^']+)'", found[2])
    index = tuple(slice(None) if name in used else 0 for name in axes)
    return tuple(np.arange(math.prod(shape)).reshape(shape)[index].flatten().tolist())


def _iota_group(found: re.Match[str]) -> tuple[int, ...]:
    shape, base = ([int(n) for n in found[i].split(",")] for i in (1, 2))
    ids = np.arange(math.prod(base)).reshape(base)
    if found[3]:
        ids = ids.transpose([int(n) for n in found[3].split(",")])
    return tuple(ids.reshape(shape)[0].tolist())
