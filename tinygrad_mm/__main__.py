"""`python -m tinygrad_mm`: look at the graph of a script from the command line.

    python -m tinygrad_mm explain script.py:loss               # the steps of backpropagation as text
    python -m tinygrad_mm draw script.py:loss -o graph.svg     # the computation graph
    python -m tinygrad_mm draw script.py:model --input-size 64,784 -o graph.html
    python -m tinygrad_mm explore script.py:loss -o page.html  # a page that steps through it
    python -m tinygrad_mm explore script.py:loss --steps 20    # and through the training steps after it

The script is run as Python would run it; what stands after the colon is the name of a Tensor in it, a loss (or, with
`--input-size`, of a model). `--help` behind a command lists its options.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import os
import shutil
import sys
import traceback
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tinygrad_mm.graph import entered
from tinygrad_mm.tensor import Tensor

__all__ = ["main"]

FAILED = 1


class CommandError(Exception):
    """What the user is told, without a traceback."""


class Found(NamedTuple):
    """What a script holds: the tensor asked for, the model that it belongs to (or None), and all variables."""

    tensor: Any
    model: Any
    variables: dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        with _script_environment(options.target.path):
            found = _find(options.target, options.model, any_callable=bool(getattr(options, "input_size", None)))
        options.run(found, options)
        sys.stdout.flush()
    except CommandError as error:
        print(f"{options.prog}: {error}", file=sys.stderr)
        return FAILED
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        print(f"{options.prog}: {options.target}: {error}", file=sys.stderr)
        return FAILED
    return 0


# ---------------------------------------------------------------------------------------------------------------------
# Commands
# ---------------------------------------------------------------------------------------------------------------------


def _explain(found: Found, options: argparse.Namespace) -> None:
    from tinygrad_mm.explorer import explain

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows no ∂ shows a question mark
    width = options.width or min(max(shutil.get_terminal_size((100, 24)).columns, 80), 120)
    limit = None if options.all else options.limit
    print(
        explain(
            found.tensor,
            found.model,
            optimizer=_optimizer(found, options),
            steps=options.steps,
            check=not options.no_check,
            limit=limit,
            width=width,
            variables=found.variables,
        )
    )


def _draw(found: Found, options: argparse.Namespace) -> None:
    from tinygrad_mm.drawing import draw

    sizes = options.input_size
    given = {
        "model": found.model,
        "input_size": sizes[0] if sizes and len(sizes) == 1 else sizes,
        "dtype": options.dtype,
        "show": options.show or (),
        "depth": options.depth,
        "fold": [] if options.fold == [""] else options.fold,
        "direction": options.direction,
        "focus": None if options.focus is None else _value(found.variables, options.focus, options.target.path),
    }
    # Called where the script's variables are, arrays have their names from these.
    names = {**found.variables, "_draw": draw, "_outputs": found.tensor, "_given": given}
    drawing = eval("_draw(_outputs, **_given)", names)
    print(drawing.save(options.output))


def _explore(found: Found, options: argparse.Namespace) -> None:
    from tinygrad_mm.explorer.page import explore

    optimizer = _optimizer(found, options)
    made = explore(found.tensor, found.model, optimizer, path=options.output, steps=options.steps, image=options.image)
    print(made)


def _optimizer(found: Found, options: argparse.Namespace) -> Any:
    """The optimizer that was named or, where several steps are asked for, the only one of the script."""
    from tinygrad_mm.optim import Optimizer

    if options.optimizer is not None:
        return _value(found.variables, options.optimizer, options.target.path)
    if options.steps == 1:
        return None
    only = _only(found.variables, Optimizer)
    if only is None:
        raise CommandError(f"--steps needs an optimizer: name the variable of {options.target.path} that holds it")
    return only


# ---------------------------------------------------------------------------------------------------------------------
# Arguments
# ---------------------------------------------------------------------------------------------------------------------


class Target(NamedTuple):
    """A script, and the name of a variable in it."""

    path: Path
    name: str

    def __str__(self) -> str:
        return f"{self.path}:{self.name}"


def _target(text: str) -> Target:
    path, colon, name = text.rpartition(":")
    if not colon or not path or not all(part.isidentifier() for part in name.split(".")):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form script.py:name, such as train.py:loss")
    return Target(Path(path), name)


def _parser() -> argparse.ArgumentParser:
    from tinygrad_mm.drawing.drawing import SHOW

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "target", type=_target, metavar="script.py:name", help="a script, and the name of a Tensor in it"
    )
    common.add_argument("--model", help="the variable that holds the model (default: the only Module there is, if any)")
    parser = argparse.ArgumentParser(
        prog="python -m tinygrad_mm", description="Look at the computation graph behind a Tensor of a script."
    )
    commands = parser.add_subparsers(metavar="command", required=True)

    explain = commands.add_parser(
        "explain", parents=[common], help="the forward and the backward pass as text, step by step"
    )
    explain.add_argument("--limit", type=_positive, default=60, help="most steps shown (default: %(default)s)")
    explain.add_argument("--all", action="store_true", help="show every step")
    explain.add_argument("--no-check", action="store_true", help="leave out the finite differences")
    explain.add_argument("--width", type=_positive, help="columns (default: those of the terminal, 80 to 120)")
    _add_training(explain)
    explain.set_defaults(run=_explain, prog=explain.prog)

    draw = commands.add_parser("draw", parents=[common], help="a picture of the computation graph")
    draw.add_argument(
        *("-o", "--output"),
        default="graph.svg",
        help="the file: .svg, .png, .pdf, .html, .json, .dot, .mmd or .txt (default: %(default)s)",
    )
    draw.add_argument(
        "--show",
        action="append",
        choices=SHOW,
        help="what to show of arrays and operations; may be given several times",
    )
    draw.add_argument("--depth", type=int, help="how far modules are folded: 0 draws the outermost as one node each")
    draw.add_argument(
        *("--fold",),
        action="append",
        metavar="PATTERN",
        help="fold the modules and functions of this path, class or name, and no others, such as 'layers.*'; may be "
        "given several times, and '' folds nothing",
    )
    draw.add_argument("--direction", choices=("LR", "TB", "RL", "BT"), default="LR", help="(default: %(default)s)")
    draw.add_argument("--focus", metavar="NAME", help="only what this Tensor of the script was computed from")
    draw.add_argument(
        *("--input-size",),
        action="append",
        type=_shape,
        metavar="N,N,...",
        help="the name is that of a model: draw what it does to an input of this shape (given once for each input)",
    )
    draw.add_argument("--dtype", default="float32", help="of that input (default: %(default)s)")
    draw.set_defaults(run=_draw, prog=draw.prog)

    explore = commands.add_parser("explore", parents=[common], help="a page that steps through backpropagation")
    explore.add_argument("-o", "--output", default="backprop.html", help="the file (default: %(default)s)")
    explore.add_argument("--image", type=_size, metavar="HxW", help="show pixels as images of this size, such as 28x28")
    _add_training(explore)
    explore.set_defaults(run=_explore, prog=explore.prog)
    return parser


def _add_training(command: argparse.ArgumentParser) -> None:
    command.add_argument("--optimizer", metavar="NAME", help="the variable that holds the optimizer: show its updates")
    command.add_argument(
        "--steps",
        type=_positive,
        default=1,
        help="training steps on the same graph (default: %(default)s; more need an optimizer, the only one is found)",
    )


def _size(text: str) -> tuple[int, int]:
    height, cross, width = text.partition("x")
    if not cross:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form HEIGHTxWIDTH, such as 28x28")
    return _positive(height), _positive(width)


def _shape(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.strip("()").split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no shape, such as 64,784")
    return tuple(map(int, parts))


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return number


# ---------------------------------------------------------------------------------------------------------------------
# The script
# ---------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _script_environment(path: Path) -> Iterator[None]:
    """Where Python looks for the script that it runs: this one stands there for the length of a `with` block."""
    before = sys.argv, sys.path[:], sys.modules["__main__"]
    try:
        sys.argv = [str(path)]
        sys.path.insert(0, str(path.resolve().parent))
        yield
    finally:
        sys.argv, sys.path[:], sys.modules["__main__"] = before


def _find(target: Target, model: str | None, any_callable: bool = False) -> Found:
    """Run the script, and take from it what was asked for: a Tensor, or with `any_callable` a model or function."""
    variables = _run(target.path)
    tensor = _value(variables, target.name, target.path)
    if not isinstance(tensor, Tensor) and not (any_callable and callable(tensor)):
        raise CommandError(
            f"{target}: {target.name} is a {type(tensor).__name__}, not a Tensor{_tensors_of(variables)}"
        )
    for name, value in variables.items():
        if isinstance(value, Tensor) and value.name is None and not name.startswith("_"):
            value.name = name
    from tinygrad_mm.nn import Module

    return Found(
        tensor, _only(variables, Module) if model is None else _value(variables, model, target.path), variables
    )


def _run(path: Path) -> dict[str, Any]:
    """The variables of a script after it has run, with the source line of every operation recorded."""
    try:
        code = compile(path.read_bytes(), str(path), "exec")
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error
    except (SyntaxError, ValueError) as error:
        raise CommandError(f"{path} is not a Python program: {error}") from error
    module = types.ModuleType("__main__")
    module.__file__ = str(path)
    sys.modules["__main__"] = module
    try:
        with entered(lines=True):
            exec(code, module.__dict__)
    except SystemExit as end:
        if end.code:
            raise CommandError(f"{path} ended with sys.exit({end.code!r})") from end
    except Exception as error:
        frames = error.__traceback__ and error.__traceback__.tb_next  # without this file's own
        traceback.print_exception(type(error), error, frames)
        raise CommandError(f"{path} did not run to its end") from error
    return vars(module)


def _value(variables: dict[str, Any], name: str, path: Path) -> Any:
    first, *rest = name.split(".")
    if first not in variables:
        close = difflib.get_close_matches(first, variables, 1)
        hint = f"; did you mean {close[0]}?" if close else _tensors_of(variables)
        raise CommandError(f"{path} has no variable {first!r} after it has run{hint}")
    value = variables[first]
    for part in rest:
        if not hasattr(value, part):
            raise CommandError(f"{path}: {name}: a {type(value).__name__} has no attribute {part!r}")
        value = getattr(value, part)
    return value


def _tensors_of(variables: dict[str, Any]) -> str:
    names = [name for name, value in variables.items() if isinstance(value, Tensor)]
    return f"; its Tensors are {', '.join(names[:10])}" if names else "; it holds no Tensor outside its functions"


def _only(variables: dict[str, Any], kind: type) -> Any:
    """The only variable of a kind, if there is just one."""
    found = {id(value): value for value in variables.values() if isinstance(value, kind)}
    return next(iter(found.values())) if len(found) == 1 else None


if __name__ == "__main__":
    sys.exit(main())
