"""Signatures for type checkers agree with those at run time; errors of `Bus.asgi`."""

from __future__ import annotations

import inspect
from importlib import metadata
from typing import TYPE_CHECKING, Any, get_type_hints

import pytest

from eventml import Bus, ConfigError
from eventml.errors import MissingExtraError
from eventml.handlers import HandlerArguments, HandlerOptions
from eventml.producer import Producer, PublishOptions, RequestOptions

if TYPE_CHECKING:
    from collections.abc import Callable


def test_the_decorators_arguments_are_the_handler_options() -> None:
    arguments, options = get_type_hints(HandlerArguments), get_type_hints(HandlerOptions)
    for name in ("name", "event_type", "output_type"):
        del arguments[name]
    assert arguments.keys() == options.keys()
    for name in arguments.keys() - {"retry_on"}:  # a sequence there, a tuple here
        assert arguments[name] == options[name], name


@pytest.mark.parametrize(
    ("options", "method"), [(PublishOptions, Producer.publish), (RequestOptions, Producer.request)]
)
def test_the_options_that_are_passed_on_are_the_producers(options: Any, method: Callable[..., Any]) -> None:
    keywords = {
        name
        for name, parameter in inspect.signature(method).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    assert set(options.__annotations__) == keywords


@pytest.mark.anyio
async def test_an_unknown_option_of_publish_is_refused() -> None:
    async with Bus("rides") as bus:
        with pytest.raises(TypeError, match="keys"):
            await bus.publish("t", {}, keys="k")  # type: ignore[call-arg]  # that is the case


class _Point:
    """An entry point whose module imports what is not installed."""

    def load(self) -> Any:
        raise ModuleNotFoundError("No module named 'starlette'", name="starlette")


def test_asgi_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "entry_points", lambda **_: [_Point()])
    with pytest.raises(MissingExtraError, match=r"pip install 'eventml\[web\]'"):
        Bus("rides").asgi()


def test_asgi_without_the_entry_point_says_to_install_eventml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "entry_points", lambda **_: [])
    with pytest.raises(ConfigError, match=r"no entry point 'web'.*source folder.*pip install"):
        Bus("rides").asgi()
