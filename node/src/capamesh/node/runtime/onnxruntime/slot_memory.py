"""The memory of a decoder's keys and values: on the host, or on a device, where no numpy reaches. Uses the device.

It is the same array in both: keys and values of a layer are one part, in the shape [slots, heads of keys, slot length, head size].
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from capamesh.node.generation.slots import CacheBlock
from capamesh.node.runtime.onnxruntime.binding import Untyped, ort
from capamesh.node.runtime.onnxruntime.sessions import session_options

Place = tuple[str, int]
"""The name of a device, as ONNX Runtime has it, and its index."""
HOST: Final[Place] = ("cpu", 0)
Kind = type[np.floating[Any]]
_ELEMENT: Final[dict[Kind, int]] = {np.float32: 1, np.float16: 10}
"""The numbers of datatypes in an ONNX file."""


class SlotMemory(Protocol):
    """Keys and values of all slots. One thread uses it."""

    place: Place
    """The device that has them."""
    kind: Kind
    shape: tuple[int, int, int, int, int]
    """[2 * layers, slots, heads of keys, slot length, head size]"""

    @property
    def size_bytes(self) -> int:
        """Return the bytes that all of it takes."""
        return math.prod(self.shape) * np.dtype(self.kind).itemsize

    def address(self, part: int, slot: int) -> int:
        """Return where a slot's keys or values of one layer begin; those of the next slot are behind them."""
        ...

    def copy(self, source: int, target: int, count: int) -> None:
        """Let the first `count` tokens of the slot `target` be those of `source`."""
        ...

    def save(self, slot: int, start: int, stop: int) -> CacheBlock:
        """Return a copy of tokens of `slot`, in the shape [2 * layers, heads of keys, tokens, head size], on the host."""
        ...

    def load(self, slot: int, at: int, block: CacheBlock, count: int) -> None:
        """Write the first `count` tokens of `block`, which has the layout of `save`, to the places from `at` on."""
        ...

    def free(self) -> None:
        """Let go of all slots; nothing reads or writes them afterwards. A second time does nothing."""
        ...


class HostMemory(SlotMemory):
    """One array of numpy. Pages of it exist only where tokens were written: a slot costs what is in it, whatever its length."""

    def __init__(self, shape: tuple[int, int, int, int, int], kind: Kind) -> None:
        """Raises `OSError` or `MemoryError`: there is no room."""
        self.place, self.kind, self.shape = HOST, kind, shape
        self._array = _zeros(shape, kind)

    def repeated(self, rows: int) -> RepeatedSlots | None:
        """Return addresses at which slots lie again, `rows` times in all; None: the system cannot do that, or slots do not end where pages do."""
        repeated = RepeatedSlots(self, rows)
        if sys.platform != "linux" or repeated.part_bytes % mmap.PAGESIZE:
            return None
        return repeated

    @override
    def address(self, part: int, slot: int) -> int:
        address: int = self._array[part, slot].ctypes.data
        return address

    @override
    def copy(self, source: int, target: int, count: int) -> None:
        # part by part: numpy takes the whole for one that overlaps, and copies it twice, through memory of its own
        for part in self._array:
            part[target, :, :count] = part[source, :, :count]

    @override
    def save(self, slot: int, start: int, stop: int) -> CacheBlock:
        return self._array[:, slot, :, start:stop].copy()

    @override
    def load(self, slot: int, at: int, block: CacheBlock, count: int) -> None:
        self._array[:, slot, :, at : at + count] = block[:, :, :count]

    @override
    def free(self) -> None:
        self._array = self._array[:, :0].copy()


class RepeatedSlots:
    """Slots as often as a run has rows of them, row behind row: rows of one slot are the same pages of memory, so that each reads what others wrote.

    Addresses are kept for as long as it lives; pages are there between `point` and `clear`.
    """

    def __init__(self, memory: HostMemory, rows: int) -> None:
        """`memory` has the slots."""
        parts, _, *of_slot = memory.shape
        self.place, self.kind, self.shape = HOST, memory.kind, (parts, rows, *of_slot)
        self.part_bytes = math.prod(of_slot) * np.dtype(memory.kind).itemsize
        """The bytes of a slot's keys or values of one layer."""
        self.slots: list[int | None] = [None] * rows
        """The slot that lies in each row; None: none does."""
        self._memory = memory
        self._size_bytes = parts * rows * self.part_bytes
        self._begin = 0

    def address(self, part: int, _: int) -> int:
        """Return where the rows' keys or values of one layer begin, once a slot has been here."""
        return self._begin + part * self.shape[1] * self.part_bytes

    def point(self, slots: Sequence[int]) -> bool:
        """Let the first rows be those slots; return False if the process has no room for so many mappings or addresses."""
        changed = [row for row, slot in enumerate(slots) if self.slots[row] != slot]
        if not changed:
            return True
        parts, rows, *_ = self.shape
        _MAPPINGS[id(self)] = parts * rows
        if sum(list(_MAPPINGS.values())) > _MOST_MAPPINGS:
            self.clear()
            return False
        try:
            if not self._begin:
                self._begin = _mapped_nothing(0, self._size_bytes)
            for part in range(parts):
                at = self.address(part, 0)
                for row in changed:
                    source = self._memory.address(part, slots[row])
                    _mapped_again(source, self.part_bytes, at + row * self.part_bytes)
        except OSError:
            self.clear()
            return False
        for row in changed:
            self.slots[row] = slots[row]
        return True

    def clear(self) -> None:
        """Let no slot lie here."""
        self.slots = [None] * self.shape[1]
        if self._begin:
            with suppress(OSError):  # then its pages lie here, unread, until another's do
                _mapped_nothing(self._begin, self._size_bytes)
        _MAPPINGS.pop(id(self), None)

    def __del__(self) -> None:
        """Give the addresses back."""
        if self._begin:
            _C.munmap(ctypes.c_void_p(self._begin), ctypes.c_size_t(self._size_bytes))
        _MAPPINGS.pop(id(self), None)


_MOST_MAPPINGS: Final = 16_384
"""The most mappings of repeated slots in this process (guess: Linux allows 65,530 in all, and whoever else gets none fails)."""
_MAPPINGS: Final[dict[int, int]] = {}
"""The mappings of each slot that is repeated now."""
_NO_ACCESS: Final = 0
_FIXED: Final = 0x10
"""Linux's MAP_FIXED, which Python's `mmap` lacks."""
_MOVED_TO: Final = 1 | 2
"""Linux's MREMAP_MAYMOVE and MREMAP_FIXED."""
_C: Final = ctypes.CDLL(None, use_errno=True)
_C.mmap.restype = _C.mremap.restype = ctypes.c_void_p


def has_repeated_slots() -> bool:
    """Return whether any slot is repeated now: its pages count as often in the resident memory of the process."""
    return bool(_MAPPINGS)


def _mapped_nothing(address: int, size_bytes: int) -> int:
    """Keep addresses, without memory; return where they begin, which Linux chooses where `address` is 0. Raises `OSError`."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (_FIXED if address else 0)
    place, size = ctypes.c_void_p(address), ctypes.c_size_t(size_bytes)
    return _checked(_C.mmap(place, size, _NO_ACCESS, flags, -1, ctypes.c_long(0)))


def _mapped_again(source: int, size_bytes: int, address: int) -> None:
    """Let the shared pages at `source` lie at `address` as well: so does Linux where the old size is 0. Raises `OSError`."""
    old, size = ctypes.c_size_t(0), ctypes.c_size_t(size_bytes)
    places = ctypes.c_void_p(source), ctypes.c_void_p(address)
    _checked(_C.mremap(places[0], old, size, _MOVED_TO, places[1]))


def _checked(address: int | None) -> int:
    if address is None or address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "memory cannot be mapped")
    return address


def _zeros(shape: tuple[int, ...], kind: Kind) -> npt.NDArray[Any]:
    """Return an array of zeros in pages of 4 KB, which may lie at several addresses.

    numpy asks for such of 2 MB: then the first token of a slot costs the memory of all that the slot may hold, and the time to clear it.
    """
    if sys.platform != "linux":
        return np.zeros(shape, kind)
    size_bytes = math.prod(shape) * np.dtype(kind).itemsize
    pages = mmap.mmap(-1, size_bytes, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without large pages
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, kind).reshape(shape)


class DeviceMemory(SlotMemory):
    """One value of ONNX Runtime for each part, on a device.

    Nothing of ONNX Runtime copies a piece of a value, but a binding may begin anywhere within one: pieces are copied by a graph
    of its operator Identity, whose inputs and outputs are bound to them.
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int, int],
        kind: Kind,
        place: Place,
        providers: Sequence[object],
    ) -> None:
        """Raises what ONNX Runtime raises: there is no room, or no such device."""
        self.place, self.kind, self.shape = place, kind, shape
        parts, slots, heads, length, size = shape
        self._head_elements = length * size
        self._slot_elements = heads * length * size
        self._itemsize = np.dtype(kind).itemsize
        zeros = np.zeros((slots, heads, length, size), kind)
        self._values: list[Untyped] = [
            ort.OrtValue.ortvalue_from_numpy(zeros.copy() if place == HOST else zeros, *place)
            for _ in range(parts)
        ]
        self._copying: Untyped = ort.InferenceSession(
            identities(parts, _ELEMENT[kind]), session_options(1), providers=list(providers)
        )

    @override
    def address(self, part: int, slot: int) -> int:
        begin: int = self._values[part].data_ptr()
        return begin + slot * self._slot_elements * self._itemsize

    @override
    def copy(self, source: int, target: int, count: int) -> None:
        if count:
            parts = range(self.shape[0])
            self._copy(
                (self.place, [self.address(part, source) for part in parts]),
                (self.place, [self.address(part, target) for part in parts]),
                self._slot_elements,
            )

    @override
    def save(self, slot: int, start: int, stop: int) -> CacheBlock:
        parts, _, heads, _, size = self.shape
        block = np.empty((parts, heads, stop - start, size), self.kind)
        for head in range(heads):
            self._copy(
                (self.place, self._pieces(slot, head, start)),
                (HOST, [block[part, head].ctypes.data for part in range(parts)]),
                (stop - start) * size,
            )
        return block

    @override
    def load(self, slot: int, at: int, block: CacheBlock, count: int) -> None:
        parts, _, heads, _, size = self.shape
        block = np.ascontiguousarray(block, self.kind)
        for head in range(heads):
            self._copy(
                (HOST, [block[part, head].ctypes.data for part in range(parts)]),
                (self.place, self._pieces(slot, head, at)),
                count * size,
            )

    @override
    def free(self) -> None:
        self._values.clear()
        self._copying = None

    def _pieces(self, slot: int, head: int, token: int) -> list[int]:
        """Return where each part's tokens from `token` on begin."""
        within = (head * self._head_elements + token * self.shape[4]) * self._itemsize
        return [self.address(part, slot) + within for part in range(self.shape[0])]

    def _copy(
        self, source: tuple[Place, list[int]], target: tuple[Place, list[int]], elements: int
    ) -> None:
        """Copy so many elements from each address of `source` to that of `target`, which have one for each part."""
        binding = self._copying.io_binding()
        (there, froms), (here, tos) = source, target
        for part, (begin, end) in enumerate(zip(froms, tos, strict=True)):
            binding.bind_input(f"x{part}", *there, self.kind, (elements,), begin)
            binding.bind_output(f"y{part}", *here, self.kind, (elements,), end)
        binding.synchronize_inputs()
        self._copying.run_with_iobinding(binding)


def identities(count: int, element: int) -> bytes:
    """Return an ONNX file whose outputs `y0` to `yN` are its inputs `x0` to `xN`, each of one axis and of the datatype numbered `element`."""
    shape = _field(1, _field(2, b"n"))
    tensor = _field(2, _field(1, bytes((1 << 3, element)) + _field(2, shape)))
    names = [(b"x%d" % number, b"y%d" % number) for number in range(count)]
    nodes = [_field(1, _field(1, x) + _field(2, y) + _field(4, b"Identity")) for x, y in names]
    inputs = [_field(11, _field(1, x) + tensor) for x, _ in names]
    outputs = [_field(12, _field(1, y) + tensor) for _, y in names]
    graph = b"".join([*nodes, _field(2, b"copies"), *inputs, *outputs])
    version, operators = bytes((1 << 3, 8)), _field(8, bytes((2 << 3, 17)))
    return version + operators + _field(7, graph)


def _field(number: int, value: bytes) -> bytes:
    """Return a field of Protocol Buffers with a length."""
    size, head = len(value), bytearray((number << 3 | 2,))
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    head.append(size)
    return bytes(head) + value
