"""Whether the `args` of a config fit the class or function that they are for, before anything is built."""

import collections.abc
import inspect
import json
import typing
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)

from utils.config_problems import Problem, translate, unknown


def _rising(values: list[int]) -> list[int]:
    if values != sorted(set(values)):
        raise ValueError("each number should be larger than the one before")
    return values


_Share = Annotated[float, Field(ge=0, le=1)]
_Milestones = Annotated[list[PositiveInt], Field(min_length=1), AfterValidator(_rising)]

# Ranges that the classes of torch do not check themselves, by the name of the argument.
RANGES: dict[str, Any] = {
    **dict.fromkeys(["T_max", "T_0", "T_mult", "step_size", "total_iters", "step_size_up"], PositiveInt),
    **dict.fromkeys(["total_steps", "epochs", "steps_per_epoch", "step_size_down"], PositiveInt | None),
    **dict.fromkeys(["gamma", "start_factor", "end_factor", "div_factor", "final_div_factor"], PositiveFloat),
    **dict.fromkeys(["factor", "delta", "beta"], PositiveFloat),
    **dict.fromkeys(["eta_min", "threshold", "power"], NonNegativeFloat),
    **dict.fromkeys(["patience", "cooldown"], NonNegativeInt),
    **dict.fromkeys(["max_lr", "base_lr", "min_lr"], NonNegativeFloat | list[NonNegativeFloat]),
    **dict.fromkeys(["base_momentum", "max_momentum"], _Share | list[_Share]),
    **dict.fromkeys(["label_smoothing", "pct_start"], _Share),
    "milestones": _Milestones,
}


def check_args(
    target: Callable[..., Any],
    args: Mapping[str, Any],
    injected: Collection[str],
    ranges: Mapping[str, Any] | None = None,
) -> list[Problem]:
    """Find where `args` do not fit the signature of `target`: unknown, missing, of a wrong type or range.

    `injected` names the arguments that the project gives itself; `ranges` overrides type hints by name.
    Paths are relative to `args`. What has no type hint, or one that cannot be resolved, is not judged.
    """
    parameters = inspect.signature(target).parameters.values()
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_any = any(p.kind == p.VAR_KEYWORD for p in parameters)
    hints = _hints(target) | dict(ranges or {})
    problems = []
    for name, value in args.items():
        if name in injected:
            problems.append(Problem((name,), "is given by the project itself and cannot be set"))
        elif name in named:
            problems += _type_problems(hints.get(name, Any), name, value)
        elif not takes_any:
            text = unknown(f"argument of {target.__name__}", name, named.keys() - injected)
            problems.append(Problem((name,), text))
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in args and name not in injected:
            problems.append(Problem((name,), f"required argument of {target.__name__}, but missing"))
    return problems


def try_out(target: Callable[..., Any], args: Mapping[str, Any], **injected: Any) -> list[Problem]:
    """Call a class of a library, and return what it says of arguments that fit its signature.

    To name the culprit it is called again with each argument left out in turn.
    """
    message = _complaint(target, injected | dict(args))
    if message is None:
        return []
    problem = f"{target.__name__} says: {message}"
    for name in args:
        if _complaint(target, injected | {key: args[key] for key in args if key != name}) is None:
            return [Problem((name,), problem)]
    return [Problem((), problem)]


def _complaint(target: Callable[..., Any], args: dict[str, Any]) -> str | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            target(**args)
        except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
            return str(error)
    return None


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    for function in [target] if inspect.isfunction(target) else [target.__new__, target.__init__]:
        try:
            # torch imports Callable and the like for type checkers only, so they are given here.
            hints |= typing.get_type_hints(function, localns=vars(collections.abc), include_extras=True)
        except Exception:  # a hint may be any expression, so it may raise anything
            continue
    return hints


def _type_problems(hint: Any, name: str, value: Any) -> list[Problem]:
    section = inspect.isclass(hint) and issubclass(hint, BaseModel)  # has settings of its own
    if isinstance(value, bool) and not any(isinstance(choice, bool) for choice in typing.get_args(hint)):
        value = str(value) if typing.get_origin(hint) is Literal else value  # or else true would pass for a 1
    try:
        adapter = TypeAdapter(hint, config=None if section else ConfigDict(arbitrary_types_allowed=True))
        # As JSON, since there a list may stand for a tuple although types are strict.
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        return [Problem((name, *path), text) for path, text in translate(error, value, hint)]
    except (PydanticUserError, TypeError, NotImplementedError):
        return []  # not a hint that pydantic can judge
    return []
