"""What a pickle of tensors says, read without unpickling: a machine of our own for the few opcodes of torch.save.

It calls nothing that a pickle names: the names of torch's storages and of the functions that rebuild tensors are looked
up in a table, and stand for descriptions. Anything else, and every other opcode, is refused by name. Opcodes: those of
Python's pickletools. Knows no file: where a storage lies is its reader's business.
"""

from __future__ import annotations

import io
import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from octavo.checkpoint.tensor import shown
from octavo.core.errors import ModelError

BYTES = 1 << 25  # longest pickle read; one of a thousand tensors takes a tenth of a megabyte
MARK = object()


@dataclass(frozen=True, slots=True)
class Storage:
    """A block of numbers. `dtype` as safetensors spells it; "" of bytes whose tensors tell it."""

    dtype: str
    key: str
    numel: int


@dataclass(frozen=True, slots=True)
class Strided:
    """A tensor: where in its storage it begins and how far apart its numbers lie, counted in numbers."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Named:
    """What a name of the table stands for: a type of numbers, or a function of ours."""

    dtype: str = ""
    call: Callable[..., Any] | None = None


def _ordered(*pairs: Any) -> dict[Any, Any]:
    if pairs and pairs[0]:
        raise ValueError("a dictionary made of pairs")
    return {}


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> Strided:
    """Rest: requires_grad, backward_hooks and, in the third version, dtype: of no matter but the last."""
    dtype = next((value.dtype for value in rest if isinstance(value, Named)), "")
    sizes = [shape, stride]
    if (
        not isinstance(storage, Storage)
        or not _is_size(offset)
        or not all(isinstance(size, tuple) and all(map(_is_size, size)) for size in sizes)
        or len(shape) != len(stride)
        or not (dtype or storage.dtype)
    ):
        raise ValueError("a tensor of no sense")
    return Strided(storage, dtype or storage.dtype, offset, shape, stride)


def _parameter(tensor: Any, *rest: Any) -> Strided:
    if not isinstance(tensor, Strided):
        raise ValueError("a parameter that is no tensor")
    return tensor


STORAGES = {
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "DoubleStorage": "F64",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "UntypedStorage": "",
}
DTYPES = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "uint16": "U16", "uint32": "U32", "uint64": "U64"}
KNOWN: dict[str, Named] = {
    "collections.OrderedDict": Named(call=_ordered),
    "torch._utils._rebuild_tensor": Named(call=_tensor),
    "torch._utils._rebuild_tensor_v2": Named(call=_tensor),
    "torch._utils._rebuild_tensor_v3": Named(call=_tensor),
    "torch._utils._rebuild_parameter": Named(call=_parameter),
    **{f"torch.{name}": Named(dtype) for name, dtype in (STORAGES | DTYPES).items()},
    "torch.storage.UntypedStorage": Named(),
}


def read_pickle(stream: io.BytesIO, where: str) -> Any:
    """The next pickle of a stream, as plain values, Storages and Strideds. Raises ModelError, of one line."""
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of text with odd escapes, in opcodes that are refused
            for opcode, argument, _ in pickletools.genops(stream):
                machine.step(opcode.name, argument)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from None
    except (ValueError, TypeError, IndexError, KeyError, RecursionError) as error:
        raise ModelError(f"{where}: damaged pickle: {shown(str(error))}") from None
    return machine.result


class _Machine:
    """A stack, and what was put aside. Every step raises ModelError, ValueError, TypeError, IndexError or KeyError."""

    def __init__(self) -> None:
        self.result: Any = None
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """One opcode."""
        if opcode in LITERALS:
            self._stack.append(argument)
        elif opcode in VALUES:
            self._stack.append(VALUES[opcode]())
        elif opcode in TUPLES:
            items = [self._stack.pop() for _ in range(TUPLES[opcode])]
            self._stack.append(tuple(reversed(items)))
        elif opcode in PUTS:
            self._memo[len(self._memo) if argument is None else argument] = self._stack[-1]
        elif opcode in GETS:
            self._stack.append(self._memo[argument])
        elif opcode in STEPS:
            STEPS[opcode](self, argument)
        elif opcode not in ("PROTO", "FRAME"):
            raise ModelError(f"the pickle has the opcode {opcode}, which files of tensors do not need")

    def _since_mark(self) -> list[Any]:
        """All above the last mark, taken off with it."""
        at = len(self._stack) - 1
        while self._stack[at] is not MARK:
            at -= 1
            if at < 0:
                raise ValueError("no mark")
        items = self._stack[at + 1 :]
        del self._stack[at:]
        return items

    def tuple(self, _: Any) -> None:
        """TUPLE"""
        self._stack.append(tuple(self._since_mark()))

    def append(self, _: Any) -> None:
        """APPEND"""
        item = self._stack.pop()
        self._list().append(item)

    def appends(self, _: Any) -> None:
        """APPENDS"""
        items = self._since_mark()
        self._list().extend(items)

    def _list(self) -> list[Any]:
        if not isinstance(self._stack[-1], list):
            raise ValueError("something appended to what is no list")
        return self._stack[-1]

    def set_item(self, _: Any) -> None:
        """SETITEM"""
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def set_items(self, _: Any) -> None:
        """SETITEMS"""
        self._set(self._since_mark())

    def _set(self, items: list[Any]) -> None:
        """Keys are text or numbers: what is nested need not be hashed."""
        if not isinstance(self._stack[-1], dict) or len(items) % 2:
            raise ValueError("an item set in what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (str, int)):
                raise ValueError("a key that is neither text nor a number")
            self._stack[-1][key] = value

    def name(self, argument: Any) -> None:
        """GLOBAL, and STACK_GLOBAL with its two names on the stack."""
        if argument is None:
            name, module = self._stack.pop(), self._stack.pop()
            argument = f"{module} {name}" if isinstance(name, str) and isinstance(module, str) else ""
        found = KNOWN.get(argument.replace(" ", "."))
        if found is None:
            raise ModelError(f"the pickle names {shown(argument.replace(' ', '.'))}; only names of tensors are read")
        self._stack.append(found)

    def reduce(self, _: Any) -> None:
        """REDUCE: a call of one of our own functions."""
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Named) or function.call is None or not isinstance(arguments, tuple):
            raise ValueError("a call of what is no function")
        self._stack.append(function.call(*arguments))

    def build(self, _: Any) -> None:
        """BUILD: attributes, which no tensor of ours has."""
        self._stack.pop()
        if not isinstance(self._stack[-1], (dict, Strided)):
            raise ValueError("attributes of what has none")

    def storage(self, _: Any) -> None:
        """BINPERSID: ("storage", type, key, location, numel), and in old files a view: None."""
        match self._stack.pop():
            case ("storage", Named(call=None) as kind, str(key), str(), int(numel), *rest) if not any(rest):
                self._stack.append(Storage(kind.dtype, key, numel))
            case _:
                raise ValueError("a storage of no sense, or a view of one")

    def stop(self, _: Any) -> None:
        """STOP"""
        (self.result,) = self._stack


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
LITERALS = {*NUMBERS, "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"}
VALUES: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "MARK": lambda: MARK,
}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
PUTS, GETS = frozenset(("BINPUT", "LONG_BINPUT", "MEMOIZE")), frozenset(("BINGET", "LONG_BINGET"))
STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "TUPLE": _Machine.tuple,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.storage,
    "STOP": _Machine.stop,
}
