"""The decorator of all actions and probes. It raises their errors as `ActivityFailed`, each with one sentence."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from chaoslib.exceptions import ActivityFailed

from chaosorca.exceptions import OrcaError

_P = ParamSpec("_P")
_T = TypeVar("_T")


def activity(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Mark a function as an activity: raise its `OrcaError` as `ActivityFailed`, with the `OrcaError` as the cause."""

    @functools.wraps(function)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(*args, **kwargs)
        except OrcaError as error:
            raise ActivityFailed(str(error)) from error

    return run
