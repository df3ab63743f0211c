"""Where chat templates run: Jinja, with nothing to reach and little to spend.

Owns the environment in which the template of a model file, which is untrusted code, is compiled and run. It keeps
two promises. It reaches nothing but its inputs: Jinja's immutable sandbox, and only listed filters and methods. And it
ends soon, with bounded memory: loop turns, calls, filters, outputs and operators count as steps and look at the clock,
and what they make is weighed (budget.py). As a single operation is not interrupted, those that can make much of little
(`*`, `**`, `%`, `~`, join, replace, format, indent) are sized before they run, and those that only pad are not offered.
Nothing is computed while compiling. Does not know messages (template.py).
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import wraps
from typing import Any, Literal

from jinja2 import TemplateError, nodes, pass_context, pass_eval_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS, do_indent, do_int, do_replace, do_round, sync_do_join
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from octavo.text.budget import Budget, Exceeded

MAX_WIDTH = 1000  # of a padded field, an indentation, the digits of a number
MAX_BITS = 1024  # of an integer that `*` or `**` gives

# Filters offered, beside those sized here; and methods, of plain data: what can make much of little is not among them.
_OFFERED = """
    abs capitalize count d default dictsort e escape first float groupby items last length list lower map max min reject
    rejectattr reverse safe select selectattr sort string title trim unique upper
"""
_METHODS: dict[type, str] = {
    str: """
        capitalize casefold count endswith find format index isalnum isalpha isascii isdecimal isdigit islower
        isnumeric isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex
        rpartition rsplit rstrip split splitlines startswith strip swapcase title upper
    """,
    dict: "copy get items keys values",
    list: "count index",
    tuple: "count index",
    int: "",
    float: "is_integer",
    bytes: "",
}
_WIDE = re.compile(r"%(?:\([^)]*\))?[-+ #0\d.]*?(?:\*|\d{4,})")  # a wide field in %-formatting


class Raised(TemplateError):
    """The template's author refuses the messages: raise_exception(...)."""


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment. Templates behave as in transformers: trimmed blocks, `tojson` that does not escape,
    `raise_exception`, `strftime_now`, loop controls, and the tag `generation`, which does nothing here."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self) -> None:
        # optimized=False, and the context that `_written` takes, keep Jinja from computing while it compiles
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=_written,
            extensions=[_Generation, loopcontrols],
        )
        self._running = threading.local()
        self._methods = {kind: frozenset(names.split()) for kind, names in _METHODS.items()}
        offered = {name: FILTERS[name] for name in _OFFERED.split()}
        offered.update(indent=_indent, int=_int, join=_join, replace=_replace, round=_round, tojson=_tojson)
        meters = {"turn": self._turn, "built": self._built, "joined": self._joined}  # see _Meters
        self.filters = meters | {name: self._metered(filter) for name, filter in offered.items()}
        self.globals = {name: self.globals[name] for name in ("range", "cycler", "joiner")}
        self.globals["dict"] = lambda *args, **fields: dict(*args, **fields)  # not the type, which has attributes
        self.globals["namespace"] = _Names
        self.globals["raise_exception"] = _raise
        self.globals["strftime_now"] = lambda format: datetime.now().strftime(format)

    @property
    def budget(self) -> Budget:
        """Of the render that runs in this thread."""
        budget: Budget = self._running.budget
        return budget

    def start(self, inputs: Iterable[Any]) -> None:
        """Begin a render in this thread."""
        self._running.budget = Budget(inputs)

    def concat(self, parts: Iterable[str]) -> str:
        """Join what a template, a macro or a block gives out."""
        kept, total = [], 0
        for part in parts:
            total += len(part)
            self.budget.size(total)
            kept.append(part)
        self.budget.spend(total)
        return "".join(kept)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Jinja's rules, and of plain data only the methods listed."""
        for kind, methods in self._methods.items():
            if isinstance(obj, kind):
                return attr in methods
        return super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Every call, those of macros and methods included."""
        __self.budget.step()
        text = getattr(__obj, "__self__", None)
        if isinstance(text, str):
            args = __self._sized(text, __obj.__name__, args)
        result = super().call(__context, __obj, *args, **kwargs)
        __self.budget.made(result)
        return result

    def _sized(self, text: str, method: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Size what a string's method will give; the arguments, as iterators are read for that."""
        if method == "join" and args:
            parts = list(args[0])
            self.budget.size(self.budget.weigh(parts) + len(text) * len(parts))
            return (parts, *args[1:])
        if method == "replace" and len(args) > 1:
            _size_replaced(self.budget, text, args[0], args[1])
        return args

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`format` of a string, with its fields sized."""
        if super().wrap_str_format(value) is None:
            return None
        text = value.__self__
        if value.__name__ != "format" or type(text) is not str:
            raise SecurityError(f"{value.__name__} of {type(text).__name__} is not offered to templates")
        return lambda *args, **fields: _Formatter(self).vformat(text, args, fields)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The operators, sized where they multiply."""
        self.budget.step()
        if operator == "*":
            _size_product(self.budget, left, right)
        elif operator == "**":
            bits = max(left.bit_length(), 1) if isinstance(left, int) else 1
            if isinstance(right, int) and abs(right) * bits > MAX_BITS:
                raise Exceeded(f"a power in it has more than {MAX_BITS} bits")
        elif operator == "%" and isinstance(left, str):
            if _WIDE.search(left):
                raise Exceeded(f"a field in it is padded to more than {MAX_WIDTH} characters")
            self.budget.size(len(left) + self.budget.weigh((right,)) + MAX_WIDTH * left.count("%"))
        elif operator == "+" and isinstance(left, str) and isinstance(right, str):
            self.budget.size(len(left) + len(right))
        result = super().call_binop(context, operator, left, right)
        self.budget.made(result)
        return result

    def _metered(self, filter: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that counts as a step and whose result is weighed."""

        @wraps(filter)
        def run(*args: Any, **kwargs: Any) -> Any:
            self.budget.step()
            result = filter(*args, **kwargs)
            self.budget.made(result)
            return result

        return run

    def _turn(self, _: None) -> None:
        """Each time around a loop."""
        self.budget.step()

    def _built(self, value: Any) -> Any:
        """A list or map that the template writes down, or a slice."""
        self.budget.step()
        self.budget.made(value)
        return value

    def _joined(self, values: tuple[Any, ...]) -> str:
        """The operator `~`."""
        self.budget.step()
        self.budget.weigh(values)
        text = "".join(map(str, values))
        self.budget.made(text)
        return text

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        """Compile, with the meters put in."""
        metered = _Meters().visit(source)
        metered.set_environment(self)
        return super()._generate(metered, *args, **kwargs)


class _Meters(NodeTransformer):
    """Puts meters into a template, in the form of filters, which are called directly: at each turn of a loop, for `~`,
    and on lists, maps and slices that it writes down."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        turn = _filtered(nodes.Const(None, lineno=node.lineno), "turn")
        node.body.insert(0, nodes.ExprStmt(turn, lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.Tuple(node.nodes, "load", lineno=node.lineno), "joined")

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "built") if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "built")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "built") if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "built")


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Generation(Extension):
    """The tag `generation`, by which trainers mark what the assistant says: its content, as it is."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=lineno)


class _Names(Namespace):
    """`namespace(...)`, without names that mean something to Python, and without showing what it holds."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # as in Jinja: a name may be `self`
        for name in dict(*args[1:], **kwargs):
            _check_name(name)
        Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}: names that begin with _ are not free")


class _Formatter(SandboxedFormatter):
    """str.format, with widths limited and the result sized as it grows."""

    def __init__(self, env: Sandbox) -> None:
        super().__init__(env)
        self._budget = env.budget
        self._total = 0

    def format_field(self, value: Any, format_spec: str) -> str:
        if any(int(number) > MAX_WIDTH for number in re.findall(r"\d{1,9}", format_spec)):
            raise Exceeded(f"a field in it is padded to more than {MAX_WIDTH} characters")
        self._budget.step()
        self._budget.weigh(value)
        text = str(super().format_field(value, format_spec))
        self._total += len(text)
        self._budget.size(self._total)
        return text


@pass_context
def _written(context: Context, value: Any) -> Any:
    """Every value that is written out passes here."""
    budget = _budget(context.environment)
    budget.step()
    budget.spend(budget.weigh(value))
    return value


def _budget(environment: object) -> Budget:
    assert isinstance(environment, Sandbox)
    return environment.budget


def _raise(message: object) -> None:
    raise Raised(str(message))


def _size_product(budget: Budget, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > MAX_BITS:
            raise Exceeded(f"a product in it has more than {MAX_BITS} bits")
        return
    for value, times in ((left, right), (right, left)):
        if isinstance(times, int) and isinstance(value, (str, list, tuple)):
            budget.size(max(budget.weigh(value), 1) * times)


def _size_replaced(budget: Budget, text: str, old: Any, new: Any) -> None:
    budget.size(len(text) + str(text).count(str(old)) * len(str(new)))


@pass_eval_context
def _join(eval_ctx: EvalContext, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    parts, budget = list(value), _budget(eval_ctx.environment)
    budget.size(budget.weigh(parts) + len(str(d)) * len(parts))
    return sync_do_join(eval_ctx, parts, d, attribute)


@pass_eval_context
def _replace(eval_ctx: EvalContext, s: Any, old: str, new: str, count: int | None = None) -> str:
    budget = _budget(eval_ctx.environment)
    budget.weigh(s)
    _size_replaced(budget, str(s), old, new)
    return do_replace(eval_ctx, s, old, new, count)


@pass_eval_context
def _indent(eval_ctx: EvalContext, s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    columns = width if isinstance(width, int) else len(width)
    _budget(eval_ctx.environment).size(len(s) + columns * (len(s.splitlines()) + 1))
    return do_indent(s, width, first, blank)


def _int(value: Any, default: int = 0, base: int = 10) -> int:
    if isinstance(value, str) and len(value) > MAX_WIDTH:
        raise Exceeded(f"a number in it has more than {MAX_WIDTH} digits")
    return do_int(value, default, base)


def _round(value: float, precision: int = 0, method: Literal["common", "ceil", "floor"] = "common") -> float:
    if abs(precision) > MAX_WIDTH:
        raise Exceeded(f"a number in it is rounded to more than {MAX_WIDTH} digits")
    return do_round(value, precision, method)


@pass_eval_context
def _tojson(
    eval_ctx: EvalContext,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    environment = eval_ctx.environment
    _budget(environment).weigh(value)
    if (indent if isinstance(indent, int) else len(indent or "")) > MAX_WIDTH:
        raise Exceeded(f"it indents by more than {MAX_WIDTH} characters")
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    # with an indentation the text can outgrow the value, so it is made and sized in parts
    return encoder.encode(value) if indent is None else environment.concat(encoder.iterencode(value))
