"""Objects as expressions: `build("DDIM(eta=0.5)")` makes the object, `repr` writes it back, `build(repr(o)) == o`.

Configuration files, checkpoints and the command line name objects this way. There is no registry: the words are the package's public
names. Only calls, names, numbers, strings, tuples, lists, dicts and minus signs are understood; nothing else is evaluated.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import sys
from collections.abc import Mapping
from typing import Any


def build(text: str, names: Mapping[str, Any] | None = None) -> Any:
    """Evaluates an expression over the public names of the package.

    Args:
        text: such as `"PredictorCorrector(ReverseDiffusion(), Langevin(snr=0.16))"`.
        names: other names to use instead.

    Raises:
        ValueError: if the text is not such an expression, names something unknown, or its arguments do not fit.
    """
    if names is None:
        names = public_names()
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        return _evaluate(tree, names, text)
    except SyntaxError as error:
        raise ValueError(f"{text!r} is not an expression ({error.msg}); write it like DDIM(eta=0.5)") from None
    except (RecursionError, MemoryError):
        raise ValueError(f"{text[:40]!r}... is nested too deeply") from None


def public_names() -> dict[str, Any]:
    """What an expression may use: the package's public vocabulary."""
    package = sys.modules[__package__]
    return {name: getattr(package, name) for name in package.__all__}


def plain_floats(obj: Any) -> None:
    """Makes the float fields of a frozen dataclass Python's own: NumPy's print as np.float64(0.1), which `build` cannot read."""
    for field in dataclasses.fields(obj):
        if field.type == "float":
            object.__setattr__(obj, field.name, float(getattr(obj, field.name)))


def short(obj: Any) -> str:
    """The expression of a dataclass without the options that have their default value, an order excepted: for tables and messages."""
    options = []
    for field in dataclasses.fields(obj):
        value = getattr(obj, field.name)
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if value != default or field.name == "order":
            options.append(f"{field.name}={short(value) if dataclasses.is_dataclass(value) else repr(value)}")
    return f"{type(obj).__name__}({', '.join(options)})"


def _evaluate(node: ast.expr, names: Mapping[str, Any], text: str) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return _look_up(name, names, text)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Tuple(elts=elements):
            return tuple(_evaluate(e, names, text) for e in elements)
        case ast.List(elts=elements):
            return [_evaluate(e, names, text) for e in elements]
        case ast.Dict(keys=keys, values=values) if all(isinstance(k, ast.Constant) for k in keys):
            return {_evaluate(k, names, text): _evaluate(v, names, text) for k, v in zip(keys, values, strict=True) if k is not None}
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if all(k.arg for k in keywords):
            make = _look_up(name, names, text)
            positional = [_evaluate(a, names, text) for a in args]
            keyword = {str(k.arg): _evaluate(k.value, names, text) for k in keywords}
            try:
                return make(*positional, **keyword)
            except TypeError as error:
                raise ValueError(f"the arguments in {ast.unparse(node)!r} do not fit {name}: {error}") from None
    raise ValueError(f"{ast.unparse(node)!r} in {text!r} is not allowed; use calls of public names, numbers, strings, tuples and lists")


def _look_up(name: str, names: Mapping[str, Any], text: str) -> Any:
    if name in names:
        return names[name]
    by_lower = {known.lower(): known for known in names}  # ddim is meant to be DDIM
    close = [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(close)}?" if close else "see the public names in dir(sde_diffusion)"
    raise ValueError(f"unknown name {name!r} in {text!r}; {hint}")
