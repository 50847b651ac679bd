"""What a skops file may not hold, and how that is said."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import skops.io
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils import Bunch

from eventml.errors import ModelError, UntrustedModelError
from eventml.models import Artefact, load
from eventml.models.trusted import LOADERS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def plain(value: Any) -> dict[str, Any]:
    """A value of JSON, as skops writes it."""
    return {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "content": repr(value)}


def sequence(*nodes: dict[str, Any], kind: str = "tuple") -> dict[str, Any]:
    loader = {"tuple": "TupleNode", "list": "ListNode"}[kind]
    return {"__class__": kind, "__module__": "builtins", "__loader__": loader, "content": list(nodes)}


def named(module: str, name: str, loader: str, **more: Any) -> dict[str, Any]:
    return {"__class__": name, "__module__": module, "__loader__": loader, **more}


def text(said: str) -> dict[str, Any]:
    return {**plain(None), "content": f'"{said}"'}


NOTHING = plain("null") | {"content": "null"}
NO_WORDS = named("builtins", "dict", "DictNode", content={}, key_types=sequence(kind="list"))


def call(function: dict[str, Any], *arguments: dict[str, Any]) -> dict[str, Any]:
    parts = {"func": function, "args": sequence(*arguments), "kwds": NO_WORDS, "namespace": NOTHING}
    return named("functools", "partial", "PartialNode", content=parts)


# Each would run `touch CANARY`, or hand out what could, if it were made.
ATTACKS: dict[str, tuple[dict[str, Any], str]] = {
    "a function": (named("os", "system", "FunctionNode"), "os.system"),
    "a type": (named("builtins", "eval", "TypeNode"), "builtins.eval"),
    "a constructor": (
        named("os", "system", "ConstructorFromReduceNode", content=sequence(text("touch CANARY"))),
        "os.system",
    ),
    "a list's class": (
        named("subprocess", "check_call", "ListNode", content=[text("touch"), text("CANARY")]),
        "subprocess.check_call",
    ),
    "a dictionary's class": (
        named("antigravity", "geohash", "DictNode", content={}, key_types=sequence(kind="list")),
        "antigravity.geohash",
    ),
    "an array's class": (
        named("os", "system", "NdArrayNode", type="json", content=[], shape=sequence(plain(0))),
        "os.system",
    ),
    "a loss": (
        named(
            "os",
            "system",
            "LossNode",
            content=NO_WORDS,
            __reduce__={"args": sequence(text("touch CANARY"))},
        ),
        "os.system",
    ),
    "a partial function": (call(named("os", "system", "FunctionNode"), text("touch CANARY")), "os.system"),
    "a partial of a type": (call(named("builtins", "map", "TypeNode")), "functools.partial"),
    "a method": (
        named(
            "sklearn.linear_model._base",
            "LinearRegression",
            "MethodNode",
            content={
                "func": "fit",
                "obj": named("sklearn.linear_model._base", "LinearRegression", "ObjectNode"),
            },
        ),
        "sklearn.linear_model._base.LinearRegression.fit",
    ),
    "bytes": (named("builtins", "bytes", "BytesNode", file="schema.json"), "builtins.bytes"),
    "a factory": (
        named(
            "collections",
            "defaultdict",
            "DefaultDictNode",
            content={"main": NO_WORDS, "default_factory": named("builtins", "list", "TypeNode")},
        ),
        "collections.defaultdict",
    ),
    "a call by name": (
        named("operator", "methodcaller", "OperatorFuncNode", attrs=sequence(text("system"))),
        "operator.methodcaller",
    ),
    "a reviewed type that is called": (
        named("sklearn.neighbors._kd_tree", "KDTree", "ConstructorFromReduceNode", content=sequence()),
        "sklearn.neighbors._kd_tree.KDTree",
    ),
    "a reviewed function that is called": (
        named("sklearn.metrics._regression", "r2_score", "ListNode", content=[]),
        "sklearn.metrics._regression.r2_score",
    ),
    "a reviewed type as a loss": (
        named("sklearn.tree._tree", "Tree", "LossNode", content=NO_WORDS, __reduce__={"args": sequence()}),
        "sklearn.tree._tree.Tree",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_forged_file_is_refused_by_name_before_anything_is_made(
    attack: str,
    forge: Callable[..., Path],
    line: LinearRegression,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    node, name = ATTACKS[attack]
    path = forge(line, lambda schema: schema["content"]["content"].update(intercept_=node))

    with pytest.raises(UntrustedModelError) as caught:
        load(path, name="x")

    assert name in caught.value.types
    assert not (tmp_path / "CANARY").exists()


@pytest.mark.parametrize("loader", ["FunctionNode", "TypeNode"])
def test_a_function_that_is_called_for_a_key_is_refused(
    loader: str, forge: Callable[..., Path], line: LinearRegression
) -> None:
    called = sequence(named("sklearn.metrics._regression", "r2_score", loader), kind="list")
    node = named("builtins", "dict", "DictNode", content={"key": NOTHING}, key_types=called)
    path = forge(line, lambda schema: schema["content"]["content"].update(more_=node))

    with pytest.raises(ModelError, match=r"for the keys of a dictionary|r2_score"):
        load(path, name="x")


def test_a_part_with_the_id_of_another_is_refused(forge: Callable[..., Path], line: LinearRegression) -> None:
    def change(schema: dict[str, Any]) -> None:
        parts = schema["content"]["content"]
        parts["intercept_"] = {**plain(0), "__id__": parts["coef_"]["__id__"]}

    with pytest.raises(ModelError, match="two different parts have the id"):
        load(forge(line, change), name="x")


ADDRESS = {"shape": (2,), "typestr": "<f8", "data": (0x4141414141410000, False), "version": 3}


@pytest.mark.parametrize("name", ["__array_interface__", "__array_struct__", "__class__", "__any"])
def test_an_attribute_with_a_special_name_is_refused_before_anything_is_made(
    name: str, save: Callable[..., Path], line: LinearRegression
) -> None:
    part = StandardScaler()
    part.__dict__[name] = ADDRESS
    line.more = part

    with pytest.raises(ModelError, match=f"special name: {name}"):
        load(save(line), name="x")


def test_a_bunch_has_no_special_names_either(save: Callable[..., Path], line: LinearRegression) -> None:
    line.more = Bunch(__array_interface__=ADDRESS)
    with pytest.raises(ModelError, match="special name"):
        load(save(line), name="x")


def test_a_vocabulary_may_have_any_word(save: Callable[..., Path]) -> None:
    model = CountVectorizer().fit(["def __init__ self"])
    assert "__init__" in load(save(model), name="x").object.vocabulary_


@pytest.mark.parametrize(
    "state",
    [
        {**plain(None), "content": '{"__array_interface__": {}}'},
        sequence(sequence(text("__array_interface__"), NO_WORDS)),
        sequence(sequence(text("__array_interface__"), NO_WORDS), kind="list"),
    ],
    ids=["json", "tuple", "list"],
)
def test_attributes_are_taken_from_a_dictionary_only(
    state: dict[str, Any], forge: Callable[..., Path], line: LinearRegression
) -> None:
    part = named("sklearn.gaussian_process.kernels", "RBF", "ObjectNode", content=state)
    path = forge(line, lambda schema: schema["content"]["content"].update(more=part))

    with pytest.raises(UntrustedModelError, match=r"kernels\.RBF"):
        load(path, name="x")


@pytest.mark.parametrize("size", ["65", "0", '"4"'])
def test_a_random_generator_is_one_that_numpy_makes(
    size: str, forge: Callable[..., Path], line: LinearRegression
) -> None:
    def change(schema: dict[str, Any]) -> None:
        seed = schema["content"]["content"]["random"]["content"]["seed_seq"]["content"]
        seed["pool_size"] = {**plain(None), "content": size}

    line.random = np.random.default_rng(1)
    with pytest.raises(ModelError):
        load(forge(line, change), name="x")


def test_a_file_is_an_archive_from_its_first_byte(save: Callable[..., Path], line: LinearRegression) -> None:
    path = save(line)
    path.write_bytes(b"\x7fELF" + path.read_bytes())
    with pytest.raises(ModelError, match="does not begin as a zip archive"):
        load(path, name="x")


def test_the_attack_would_work_if_it_were_trusted(
    forge: Callable[..., Path], line: LinearRegression, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the test above can fail."""
    monkeypatch.chdir(tmp_path)
    node, name = ATTACKS["a constructor"]
    path = forge(line, lambda schema: schema["content"]["content"].update(intercept_=node))

    load(Artefact(path, trusted=(name,)), name="x")

    assert (tmp_path / "CANARY").exists()


def test_a_name_in_the_oldest_format_is_refused_too(
    forge: Callable[..., Path], line: LinearRegression
) -> None:
    def change(schema: dict[str, Any]) -> None:
        old = {"module_path": "sklearn.tree._tree", "function": "Tree"}
        schema["protocol"] = 0
        schema["content"]["content"]["intercept_"] = named("builtins", "str", "FunctionNode", content=old)

    with pytest.raises(UntrustedModelError, match=r"sklearn\.tree\._tree\.Tree"):
        load(forge(line, change), name="x")


def test_functions_of_others_are_all_named_and_can_be_trusted(save: Callable[..., Path]) -> None:
    mean, median = "statistics.mean", "statistics.median"
    inner = FunctionTransformer(np.log1p, inverse_func=statistics.median)
    path = save(make_pipeline(FunctionTransformer(statistics.mean), inner, LinearRegression()))

    with pytest.raises(UntrustedModelError) as caught:
        load(path, name="x")
    assert caught.value.types == (mean, median)
    assert f"Artefact('{path}', trusted=('{mean}', '{median}'))" in str(caught.value)

    with pytest.raises(UntrustedModelError) as caught:
        load(Artefact(path, trusted=(median,)), name="x")
    assert caught.value.types == (mean,)
    assert f"Artefact('{path}', trusted=('{median}', '{mean}'))" in str(caught.value)

    loaded = load(Artefact(path, trusted=(mean, median)), name="x").object
    assert loaded[0].func is statistics.mean


def test_trusting_one_text_instead_of_a_tuple_is_caught() -> None:
    slip: Any = "statistics.mean"
    with pytest.raises(ModelError, match=r"trusted=\('statistics.mean',\)"):
        Artefact("model.skops", trusted=slip)


def test_a_trusted_name_that_cannot_be_imported_is_a_model_error(
    forge: Callable[..., Path], line: LinearRegression
) -> None:
    node = named("no_such_module", "thing", "FunctionNode")
    path = forge(line, lambda schema: schema["content"]["content"].update(intercept_=node))

    with pytest.raises(ModelError, match="no_such_module"):
        load(Artefact(path, trusted=("no_such_module.thing",)), name="x")


def test_nothing_on_the_reviewed_list_is_outside_numpy_scipy_and_scikit_learn() -> None:
    outside = {name for name in LOADERS if not name.startswith(("numpy.", "scipy.", "sklearn."))}
    assert outside == {"functools.partial"}


def test_the_reviewed_list_is_still_needed_for_trees() -> None:
    """Of skops: it trusts no trees by itself: if it ever does, or renames them, the list wants a look."""
    data = skops.io.dumps(DecisionTreeRegressor().fit([[0.0], [1.0]], [0.0, 1.0]))
    assert set(skops.io.get_untrusted_types(data=data)) <= LOADERS.keys()
