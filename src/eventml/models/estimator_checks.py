"""Checks of the functions, method names, estimators and arrays that a loaded model's objects hold.

scikit-learn calls functions that an estimator stores, and looks up methods by names that it stores. Each type
in a skops file may be harmless, and their combination not: a stacking model that "stacks" an array by its
method `tofile` writes a file. So they are accepted only where scikit-learn itself puts them:

- a function as the value of an attribute that is listed for it (`PLACES`), without arguments from the file;
- a method's name from `METHODS`, and estimators where scikit-learn expects estimators;
- arrays of numbers, text and times; arrays of objects as the few attributes that scikit-learn makes so.

`tests/unit/models/test_lookups.py` lists every place where scikit-learn looks up what a string names.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterable, Iterator
from functools import cache, partial
from string import Formatter
from types import MethodType
from typing import Any, Final

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array

from eventml.models.object_graph import attributes, elements
from eventml.models.trusted import PLACES, UFUNC_PLACES


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


METHODS: Final = _names("decision_function predict predict_log_proba predict_proba")

_METHOD_ATTRIBUTES: Final = _names(
    "_response_method chain_method chain_method_ response_method stack_method stack_method_"
)
_ESTIMATOR_ATTRIBUTES: Final = _names(
    "_preprocessor base_estimator base_estimator_ best_estimator_ classifier estimator estimator_ "
    "estimators_ final_estimator final_estimator_ init_ initial_imputer_ regressor regressor_ transformer "
    "transformer_"
)
# Lists of (name, estimator) or (name, estimator, columns).
_STEP_ATTRIBUTES: Final = _names("estimators steps transformer_list transformers transformers_")
# Functions, and the keyword arguments that they are called with.
_ARGUMENTS: Final = (("func", "kw_args"), ("inverse_func", "inv_kw_args"), ("_score_func", "_kwargs"))
# Fitted attributes that may be arrays of objects, or lists of these.
_OBJECT_ARRAYS: Final = _names(
    "bin_edges_ categories_ classes_ constant_ drop_idx_ estimators_ feature_names_in_ l1_ratio_ l1_ratios_ "
    "outlier_label_ statistics_ transduction_"
)
# A path to the coefficients of a part, such as `named_steps.line.coef_`.
_IMPORTANCE: Final = re.compile(r"(?:[A-Za-z]\w*\.)*(?:coef_|feature_importances_)", re.ASCII)
_VALUES: Final = (str, int, float, complex, bool, np.generic, type(None))
PLAIN: Final = (dict, list, tuple)
# Types that make a number or a text of what they are called with.
_PLAIN_TYPES: Final = (bool, int, float, str, np.bool_, np.number, np.str_)


def named_objects(names: Iterable[str]) -> tuple[Any, ...]:
    """The types and functions of these full names, for `misuses`. Names of nothing are left out."""
    found = []
    for name in names:
        try:
            found.append(pkgutil.resolve_name(name))
        except (ImportError, AttributeError, ValueError):
            continue
    return tuple(found)


def misuses(one: Any, trusted: tuple[Any, ...]) -> Iterator[str]:
    """The faults of one object of a model, each in words: values that do not belong where they are.

    Functions in `trusted` are accepted anywhere and with arguments, and objects of types in it as they are.
    """
    if _trusts(trusted, one):
        return
    if isinstance(one, partial) and not _is_array_check(one):
        yield f"it calls the function {_shown(one.func)} with arguments of its own"
    if _is_function(one, ()):
        return  # the object that holds it is checked
    for value in elements(one):
        if _is_function(value, trusted):
            yield f"it holds the function {_shown(value)}, which is not trusted by name"
    if type(one) in PLAIN:
        return  # it has no attributes; a file may hold a million
    # numpy sets the attributes of an array itself.
    own = {} if isinstance(one, np.ndarray) else attributes(one)
    for name, value in own.items():
        if _is_function(value, trusted) and not _belongs(one, name, value):
            yield f"its {name} is the function {_shown(value)}, which is not trusted by name"
        if str(name).startswith("__"):
            yield f"an attribute has the special name {name}"
    yield from _misused_names(own, trusted)
    yield from _misused_texts(own, trusted)
    yield from _misused_arrays(one, own)


def _misused_arrays(one: Any, own: dict[str, Any]) -> Iterator[str]:
    if isinstance(one, np.lib.npyio.NpzFile):
        yield "it is an archive in the place of an array"
    if isinstance(one, np.ndarray) and one.dtype.kind in "SV" and one.dtype.names is None:
        yield "it is an array of bytes"
    if type(one).__module__.startswith("sklearn."):
        for name, value in own.items():
            if name.endswith("_") and name not in _OBJECT_ARRAYS and _has_objects(value):
                yield f"its {name} is an array of objects"


def _misused_names(own: dict[str, Any], trusted: tuple[Any, ...]) -> Iterator[str]:
    for name in own.keys() & _METHOD_ATTRIBUTES:
        if not all(_is_method_name(part) for part in _flat(own[name])):
            yield f"its {name} names another method than {', '.join(sorted(METHODS))}"
    for name in own.keys() & (_ESTIMATOR_ATTRIBUTES | _STEP_ATTRIBUTES):
        parts = (step[1] for step in own[name]) if name in _STEP_ATTRIBUTES else _flat(own[name])
        if not all(_is_estimator(part, trusted) for part in parts):
            yield f"its {name} holds what is no estimator"
    for function, arguments in _ARGUMENTS:
        given = own.get(arguments)
        settings = function == "_score_func" and all(isinstance(part, _VALUES) for part in _flat(given))
        if given and not settings and not _trusts(trusted, own.get(function)):
            yield f"its {arguments} are arguments for a function that is not trusted by name"
    if own.get("input", "content") != "content":
        yield f"input={own['input']!r} reads files that an event names; only input='content' is accepted"
    if not isinstance(own.get("memory"), str | None) and not _trusts(trusted, own["memory"]):
        yield "its memory is no folder"


def _misused_texts(own: dict[str, Any], trusted: tuple[Any, ...]) -> Iterator[str]:
    """Texts that scikit-learn follows from attribute to attribute, and what it formats with them."""
    getter = own.get("importance_getter", "auto")
    if not _is_importance(getter) and not _trusts(trusted, getter):
        yield "its importance_getter leads to another attribute than coef_ and feature_importances_"
    pattern = own.get("verbose_feature_names_out", True)
    if not _is_pattern(pattern) and not _trusts(trusted, pattern):
        yield "its verbose_feature_names_out has other fields than {transformer_name} and {feature_name}"
    columns = own.get("feature_names_in_")
    known = columns is None or np.asarray(columns).dtype.kind == "U"
    if not known and not all(type(name) is str for name in _flat(columns)):
        yield "its feature_names_in_ are not texts"
    for attribute in own.keys() & _STEP_ATTRIBUTES:
        if not all(type(step[0]) is str for step in own[attribute]):
            yield f"its {attribute} have names that are not texts"


def _is_importance(getter: Any) -> bool:
    if type(getter) is not str:
        return False
    # An array's `ctypes` leads to functions that load programs.
    return getter == "auto" or (bool(_IMPORTANCE.fullmatch(getter)) and "ctypes" not in getter.split("."))


def _is_pattern(pattern: Any) -> bool:
    if type(pattern) is not str:
        return isinstance(pattern, bool | np.bool_)
    try:
        parsed = list(Formatter().parse(pattern))
    except ValueError:
        return False
    return all(
        field is None or (field in ("transformer_name", "feature_name") and not spec and conversion is None)
        for _, field, spec, conversion in parsed
    )


def _trusts(trusted: tuple[Any, ...], value: Any) -> bool:
    if isinstance(value, MethodType):
        value = value.__func__
    return any(value is one or type(value) is one for one in trusted)


def _is_function(value: Any, trusted: tuple[Any, ...]) -> bool:
    """Whether it is a function, or a type other than those of numbers and text."""
    if not callable(value) or type(value).__module__.startswith(("sklearn.", "scipy.")):
        return False
    if isinstance(value, type) and issubclass(value, _PLAIN_TYPES):
        return False
    return not _trusts(trusted, value)


def _belongs(one: Any, name: str, function: Any) -> bool:
    if isinstance(function, np.ufunc):
        return name in UFUNC_PLACES and function.nin == 1
    if isinstance(function, partial):
        return name == "func"  # and its arguments are checked where it is met itself
    # A few objects of scipy store a method of their own class.
    return any(function is listed for listed in (*_functions(name), *vars(type(one)).values()))


@cache
def _functions(name: str) -> tuple[Any, ...]:
    return named_objects(PLACES.get(name, ()))


def _is_array_check(function: partial[Any]) -> bool:
    """Whether it is what histogram boosting with categories calls on its numbers."""
    expected = function.keywords.keys() <= {"dtype", "ensure_all_finite", "force_all_finite"}
    return function.func is check_array and not function.args and expected and not attributes(function)


def _is_method_name(value: Any) -> bool:
    return value is None or (type(value) is str and (value in METHODS or value == "auto"))


def _is_estimator(value: Any, trusted: tuple[Any, ...]) -> bool:
    # A text is "drop" or "passthrough": scikit-learn calls no method of another one.
    return value is None or isinstance(value, str | BaseEstimator) or _trusts(trusted, value)


def _has_objects(value: Any) -> bool:
    parts = value if isinstance(value, list | tuple) else (value,)
    return any(isinstance(part, np.ndarray) and part.dtype == object for part in parts)


def _flat(value: Any) -> Iterator[Any]:
    """The values inside containers and object arrays."""
    if isinstance(value, dict | list | tuple | set | frozenset) or _has_objects(value):
        for part in elements(value):
            yield from _flat(part)
    else:
        yield value


def _shown(function: Any) -> str:
    name = getattr(function, "__name__", type(function).__name__)
    return f"{getattr(function, '__module__', '')}.{name}".lstrip(".")
