"""Loading a model from a file, a registry or a function, and finding out cheaply whether another is there."""

from __future__ import annotations

import hashlib
import inspect
import math
import os
import pickle
import re
import stat
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final, Literal

from msgspec import structs

from eventml.errors import ConfigError, EventMLError, MissingExtraError, ModelError, ModelTamperedError
from eventml.models.artefacts import Artefact, Model, ModelSource
from eventml.models.formats import ModelFile, format_name, read_model
from eventml.models.registries import ModelRegistry, fetched, registry_of, shown, translated
from eventml.models.threads import use_one_job

_DIGITS: Final = 12  # of a version: 48 bits tell a team's models apart, and keep ids short
_BESIDE: Final = ".sha256"  # behind a model's path: the file with its digest
_PIN: Final = re.compile(rb"\\?([0-9a-fA-F]{64})(?:[ \t][^\n]*)?\s*")  # a line of sha256sum, or its digits
_NO_WAIT: Final = getattr(os, "O_NONBLOCK", 0)  # not on Windows
_PIN_SIZE: Final = 8192  # bytes to read; one line is shorter


def load(source: ModelSource, *, name: str) -> Model:
    """Load a model. It blocks, for a large model for long: call it in a thread.

    A path is loaded according to its suffix, and only types on eventml's reviewed list are trusted; an
    `Artefact` can say more. A reference to a registry is resolved and downloaded first, unless the cache has
    what it names now. A `Model` is returned as it is. A function is called without arguments: if it
    returns a `Model`, that is kept; a path or an `Artefact` is loaded; any other object becomes the model,
    limited to one thread, with a version computed from its pickled state ("unversioned" if it cannot be
    pickled: return a `Model` with a version of your own then).

    The file is read once: the bytes that are hashed are the bytes that are loaded.

    Args:
        source: The model's path, `Artefact`, `Model` or function.
        name: Name of the model if the source has none; a file's name, without its suffix, comes first.

    Raises:
        ModelNotFoundError: There is no file at the path.
        ModelTamperedError: The file's sha256 differs from the artefact's, or from that in `<path>.sha256`.
        UntrustedModelError: Loading it would run code, or create types, that are not trusted.
        ModelError: The file cannot be read, is damaged, or the function failed.
        MissingExtraError: The format needs an extra that is not installed.

    Warns:
        sklearn.exceptions.InconsistentVersionWarning: The file was saved with another version of
            scikit-learn. Where a filter makes this an error, the model is refused with a ModelError.
    """
    if isinstance(source, Model):
        return source
    if (artefact := _artefact(source)) is not None:
        return _load_artefact(artefact)
    if callable(source):
        return _load_from_function(source, name)
    raise ModelError(
        f"model {name!r}: a model is a path, an Artefact, a Model or a function that returns one, "
        f"not {type(source).__name__}; pass an object by a function: model=lambda: the_object"
    )


def current_version(source: ModelSource) -> str | None:
    """The version that the model at a source has now, without loading it; None if it cannot change.

    A pinned model cannot, nor one whose `version` the code gives, nor what a function makes. It reads a file
    only if the file has changed. A registry gets one small request, or none if the reference names a version;
    what it names is downloaded if it is not in the cache. It blocks, and raises errors as `load` does.
    """
    artefact = _unpinned(source)
    if artefact is None:
        return None
    with translated(artefact):
        path, _ = _located(artefact, registry_of(artefact))
        return _digest(path, state_of(path))[:_DIGITS] + _suffix(artefact)


def can_change(source: ModelSource) -> bool:
    """Whether the model at a source can have another version later: see `current_version`."""
    return _unpinned(source) is not None


def _unpinned(source: ModelSource) -> Artefact | None:
    """The file or reference of a source that can change, or None."""
    artefact = _artefact(source)
    if artefact is None or artefact.sha256 is not None or artefact.version is not None:
        return None
    return artefact


def _suffix(artefact: Artefact) -> str:
    """The end of a compiled model's version: its last digits are not those of the original."""
    return "" if artefact.compile is None else f"-{artefact.compile}"


@lru_cache(maxsize=64)
def _digest(path: Path, _state: object) -> str:
    return _content(path)[1]


def state_of(path: Path) -> tuple[object, ...]:
    """Return values that change when a file, or a file in a folder, is written or replaced."""
    stats = [(file, file.stat()) for file in _files(path)]
    return tuple((f, one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for f, one in stats)


def _located(artefact: Artefact, registry: ModelRegistry | None) -> tuple[Path, str]:
    """The path of a model, in the cache if it is in a registry, and its name."""
    if registry is None:
        return Path(artefact.path), Path(artefact.path).stem
    revision, name = registry.resolve(str(artefact.path))
    return fetched(registry, artefact, revision), name


def _artefact(source: ModelSource) -> Artefact | None:
    """The artefact of a source; None if the application makes the model itself."""
    if isinstance(source, partial) and source.func is _replacing:
        source = source()
    if isinstance(source, str | os.PathLike):
        source = Artefact(source)
    return source if isinstance(source, Artefact) else None


def path_of(source: ModelSource) -> str | os.PathLike[str] | None:
    """The path, or the reference to a registry, that a source names; None if the application makes the model.

    Nothing is read, and no pin is looked for.
    """
    if isinstance(source, partial) and source.func is _replacing:
        source = source.args[1]
    path = source.path if isinstance(source, Artefact) else source
    return path if isinstance(path, str | os.PathLike) else None


def replacement(source: ModelSource | None, path: str, sha256: str | None = None) -> ModelSource:
    """The source of a model that a setting puts in the place of `source`.

    Code that pins its model, or makes it itself, decides what runs, so the file needs a pin too: `sha256`, or
    the file `<path>.sha256`. Without one `load` raises a ModelError. In the place of a file without a pin it
    needs none. It may be a pickle only if the code's model may be one, and with `sha256`.
    """
    code = _artefact(source) if source is not None else None
    artefact = structs.replace(code or Artefact(path), path=path, sha256=sha256, name=None, version=None)
    pickled = artefact.pickle and sha256 is not None
    artefact = structs.replace(artefact, trusted=(), pickle=pickled, format=None)
    return artefact if source is None or sha256 is not None else partial(_replacing, code, artefact)


def with_compiler(source: ModelSource | None, compiler: Literal["onnx"]) -> ModelSource:
    """The same source, with the model compiled. A ConfigError refuses a model that the application makes."""
    if isinstance(source, partial) and source.func is _replacing:
        code, artefact = source.args
        return partial(_replacing, code, structs.replace(artefact, compile=compiler))
    found = _artefact(source) if source is not None else None
    if found is None:
        raise ConfigError("model_compile needs a model in a file or a registry; the code makes this one")
    return structs.replace(found, compile=compiler)


def _replacing(code: Artefact | None, artefact: Artefact) -> Artefact:
    pinned = code is None or code.sha256 or _pins_beside(Path(code.path))
    if pinned and not _pins_beside(Path(artefact.path)):
        path = shown(artefact)
        raise ModelError(
            f"{path} replaces a model that the code pins or makes, so it needs a pin too: set model_sha256, "
            f"or run sha256sum {path} > {path}.sha256 when you make the model"
        )
    return artefact


def _pins_beside(path: Path) -> dict[str, str]:
    """The digests in the files `<path>.sha256`, if any, by path; also beside the file it is a link to."""
    pins = {}
    real = str(path) if "\0" in str(path) else os.path.realpath(path)  # refused below
    for place in dict.fromkeys((str(path), real)):
        beside = f"{place}{_BESIDE}"
        try:
            found = _PIN.fullmatch(_read(beside, _PIN_SIZE))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as exc:
            raise ModelError(f"{beside} cannot be read: {exc}") from exc
        if found is None:
            raise ModelError(f"{beside}: expected one line, as sha256sum writes it: 64 hex digits and a name")
        pins[beside] = found[1].decode()
    return pins


def _read(path: str | Path, size: int = -1) -> bytes:
    """The content of a file, up to `size` bytes. A pipe, which could block forever, is an OSError."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NO_WAIT)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is not a regular file")
        return file.read(size)


def _files(path: Path) -> list[Path]:
    """The file; of a folder its files in the order of their names' bytes."""
    files = [file for file in path.rglob("*") if not file.is_dir()] if path.is_dir() else [path]
    return sorted(files, key=lambda file: os.fsencode(file.relative_to(path)))


def _content(path: Path) -> tuple[bytes, str]:
    """A file's content and sha256; of a folder nothing, and that of what sha256sum prints for its files."""
    if not path.is_dir():
        data = _read(path)
        return data, hashlib.sha256(data).hexdigest()
    digests = [(hashlib.sha256(_read(file)).hexdigest(), file.relative_to(path)) for file in _files(path)]
    return b"", hashlib.sha256(b"".join(os.fsencode(f"{d}  {file}\n") for d, file in digests)).hexdigest()


def _load_artefact(artefact: Artefact) -> Model:
    registry = registry_of(artefact)
    kind = format_name(Path(artefact.path), artefact) if registry is None else None  # before it is looked for
    with translated(artefact):
        path, name = _located(artefact, registry)
        data, digest = _content(path)
    kind = kind or format_name(path, artefact)
    given = "sha256 in its Artefact, or the setting model_sha256"
    pins = {given: artefact.sha256, **({} if registry else _pins_beside(path))}
    for where, pin in pins.items():
        if pin is not None and pin.lower() != digest:
            raise ModelTamperedError(
                f"{path} is not the expected file: its sha256 is {digest}, not {pin}. "
                f"If it was replaced on purpose, change {where}"
            )
    may_unpickle = artefact.pickle and any(pins.values())
    file = ModelFile(path=path, data=data, artefact=artefact, may_unpickle=may_unpickle)
    model, compared = read_model(file, kind), None
    if not artefact.keep_threads:
        use_one_job(model)
    if artefact.compile is not None:
        model, compared = _compiled(model, file)
    return Model(
        object=model,
        name=name if artefact.name is None else artefact.name,
        version=(digest[:_DIGITS] if artefact.version is None else artefact.version) + _suffix(artefact),
        compared=compared,
    )


def compiled_copy(model: Model) -> Model:
    """A loaded model, compiled, however far its predictions are from the original's.

    Raises:
        MissingExtraError: The extra `compile` is not installed.
        ModelError: It cannot be compiled.
    """
    artefact = Artefact(model.name, compile="onnx", compile_tolerance=math.inf)
    made, _ = _compiled(model.object, ModelFile(path=Path(model.name), data=b"", artefact=artefact))
    return Model(object=made, name=model.name, version=model.version + _suffix(artefact))


def _compiled(model: Any, file: ModelFile) -> tuple[Any, Any]:
    try:
        from eventml.models.compiled import Compared, compiled  # noqa: PLC0415 - it imports scikit-learn
    except ImportError as exc:
        raise MissingExtraError("compile", f"compiling {file.path}") from exc
    tolerance = file.artefact.compile_tolerance
    made = compiled(model, file, tolerance)
    return made, Compared(made, model, tolerance)


def _load_from_function(function: Callable[[], Any], name: str) -> Model:
    shown = getattr(function, "__qualname__", type(function).__name__)
    try:
        made = function()
    except EventMLError:
        raise
    except Exception as exc:
        raise ModelError(f"model {name!r}: {shown} failed: {type(exc).__name__}: {exc}") from exc
    if inspect.iscoroutine(made):
        made.close()
        raise ModelError(f"model {name!r}: {shown} is async; use a plain function, which runs in a thread")
    if made is None:
        raise ModelError(f"model {name!r}: {shown} returned None; it must return the model")
    if isinstance(made, Model | Artefact | str | os.PathLike):
        return load(made, name=name)
    use_one_job(made)
    return Model(object=made, name=name, version=_version_of(made))


def _version_of(model: Any) -> str:
    """The version of an object: a hash of its pickled state, or "unversioned" if it cannot be pickled.

    Without joblib the version of a model that contains sets of text may differ between processes.
    """
    try:
        try:
            # joblib sorts sets and dictionaries and merges equal strings; a plain pickle differs between
            # processes in all three.
            import joblib  # noqa: PLC0415 - optional
        except ImportError:
            return hashlib.sha256(pickle.dumps(model, protocol=5)).hexdigest()[:_DIGITS]
        return str(joblib.hash(model))[:_DIGITS]
    except Exception:  # noqa: BLE001 - the pickling code of an object's class can raise anything
        return "unversioned"
