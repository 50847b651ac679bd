"""One model of each format: how to save it, how its library predicts with the file, and how a handler does.

Each case gives the predictions of `ROWS` by the library alone; rows are what the events of a stream hold.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import joblib
import numpy as np
import skops.io
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor

from eventml.models import Artefact, in_blocks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROWS: Final = np.random.default_rng(7).normal(size=(150, 3)).astype(np.float32).astype(np.float64)
TARGET: Final = ROWS.sum(axis=1) + np.sin(5 * ROWS[:, 0])
KIND: Final = (TARGET > 0).astype(int)
WORDS: Final = ["ride", "short", "long", "zone", "rain", "[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]


class Case(NamedTuple):
    """A format.

    Attributes:
        save: Saves a model to a folder. Returns its artefact, and the predictions of `ROWS` that the
            library itself makes with the file.
        predict: What a handler does with the loaded model and rows.
        needs: Modules without which it cannot run.
    """

    save: Callable[[Path], tuple[Artefact, Any]]
    predict: Callable[[Any, Any], Any] = lambda model, rows: model.predict(rows)
    needs: tuple[str, ...] = ()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def by_skops(folder: Path) -> tuple[Artefact, Any]:
    model = RandomForestRegressor(10, random_state=0).fit(ROWS, TARGET)
    skops.io.dump(model, folder / "model.skops")
    return Artefact(folder / "model.skops"), model.predict(ROWS)


def by_joblib(folder: Path) -> tuple[Artefact, Any]:
    model, path = GradientBoostingRegressor(random_state=0).fit(ROWS, TARGET), folder / "model.joblib"
    joblib.dump(model, path)
    return Artefact(path, pickle=True, sha256=digest(path)), joblib.load(path).predict(ROWS)


def by_onnx(folder: Path) -> tuple[Artefact, Any]:
    import onnxruntime
    import skl2onnx

    forest = RandomForestRegressor(10, random_state=0).fit(ROWS, TARGET)
    path, narrow = folder / "model.onnx", ROWS.astype(np.float32)
    path.write_bytes(skl2onnx.to_onnx(forest, narrow[:1]).SerializeToString())
    one = onnxruntime.SessionOptions()
    one.intra_op_num_threads = 1  # more add up the trees in another order
    session = onnxruntime.InferenceSession(path, one, ["CPUExecutionProvider"])
    own = session.run(None, {session.get_inputs()[0].name: narrow})[0]
    return Artefact(path, options={"providers": ["CPUExecutionProvider"]}), own.ravel()


def compiled(folder: Path) -> tuple[Artefact, Any]:
    artefact, _ = by_skops(folder)
    return Artefact(artefact.path, compile="onnx"), by_onnx(folder)[1]  # of the same forest


def by_xgboost(suffix: str, kind: str) -> Callable[[Path], tuple[Artefact, Any]]:
    def save(folder: Path) -> tuple[Artefact, Any]:
        import xgboost

        path = folder / f"model.{suffix}"
        if kind == "Booster":
            trained = xgboost.train({"max_depth": 3}, xgboost.DMatrix(ROWS, TARGET), 20)
        else:
            trained = getattr(xgboost, kind)(n_estimators=20, n_jobs=2)
            trained.fit(ROWS, KIND if kind == "XGBClassifier" else TARGET)
        trained.save_model(path)
        own = getattr(xgboost, kind)()
        own.load_model(path)
        return Artefact(path), (own.inplace_predict if kind == "Booster" else own.predict)(ROWS)

    return save


def by_lightgbm(folder: Path) -> tuple[Artefact, Any]:
    import lightgbm

    data = lightgbm.Dataset(ROWS, TARGET)
    path = folder / "model.txt"
    lightgbm.train({"verbose": -1, "num_leaves": 7}, data, 20).save_model(path)
    return Artefact(path), lightgbm.Booster(model_file=path).predict(ROWS)


def by_catboost(kind: str) -> Callable[[Path], tuple[Artefact, Any]]:
    def save(folder: Path) -> tuple[Artefact, Any]:
        import catboost

        path = folder / "model.cbm"
        trained = getattr(catboost, kind)(iterations=20, verbose=0, allow_writing_files=False)
        trained.fit(ROWS, KIND if kind == "CatBoostClassifier" else TARGET).save_model(path)
        return Artefact(path), getattr(catboost, kind)().load_model(path).predict(ROWS)

    return save


def network() -> Any:
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(3, 8), torch.nn.Dropout(0.5), torch.nn.ReLU(), torch.nn.Linear(8, 1)
    )


def of_module(module: Any, rows: Any) -> Any:
    """In blocks: a dense product of another shape may differ in its last bits."""
    import torch

    return in_blocks(
        lambda some: module(torch.tensor(some, dtype=torch.float32)).numpy().ravel(), rows, size=64
    )


def by_torch(suffix: str) -> Callable[[Path], tuple[Artefact, Any]]:
    def save(folder: Path) -> tuple[Artefact, Any]:
        import torch
        from safetensors.torch import save_file

        path, module = folder / f"model.{suffix}", network().eval().requires_grad_(requires_grad=False)
        if suffix == "safetensors":
            save_file(module.state_dict(), path)
            return Artefact(path, options={"factory": network}), of_module(module, ROWS)
        if suffix == "pt":
            torch.jit.save(torch.jit.script(module), path)
        else:
            rows = torch.export.Dim("rows", min=2)
            torch.export.save(
                torch.export.export(module, (torch.zeros(64, 3),), dynamic_shapes=({0: rows},)), path
            )
        return Artefact(path, sha256=digest(path)), of_module(module, ROWS)

    return save


def by_transformers(folder: Path) -> tuple[Artefact, Any]:
    import transformers

    path = folder / "sentiment"
    transformers.set_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertForSequenceClassification(config).save_pretrained(path)
    (path / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer(str(path / "vocab.txt")).save_pretrained(path)
    own = transformers.pipeline("text-classification", model=str(path))
    return Artefact(path, options={"task": "text-classification"}), of_pipeline(own, ROWS)


def of_pipeline(pipeline: Any, rows: Any) -> Any:
    texts = [" ".join(WORDS[int(abs(value) * 10) % 5] for value in row) for row in rows]
    return [one["score"] for one in pipeline(texts)]


TORCH: Final = ("torch", "safetensors")
CASES: Final[dict[str, Case]] = {
    "skops": Case(by_skops),
    "joblib": Case(by_joblib),
    "onnx": Case(by_onnx, needs=("onnxruntime", "skl2onnx")),
    "compiled": Case(compiled, needs=("skl2onnx", "onnxruntime")),
    "xgboost ubj": Case(by_xgboost("ubj", "XGBRegressor"), needs=("xgboost",)),
    "xgboost json": Case(by_xgboost("json", "XGBClassifier"), needs=("xgboost",)),
    "xgboost booster": Case(
        by_xgboost("ubj", "Booster"), lambda model, rows: model.inplace_predict(rows), ("xgboost",)
    ),
    "lightgbm": Case(by_lightgbm, needs=("lightgbm",)),
    "catboost regressor": Case(by_catboost("CatBoostRegressor"), needs=("catboost",)),
    "catboost classifier": Case(by_catboost("CatBoostClassifier"), needs=("catboost",)),
    "safetensors": Case(by_torch("safetensors"), of_module, TORCH),
    "torchscript": Case(by_torch("pt"), of_module, TORCH),
    "torch.export": Case(by_torch("pt2"), of_module, TORCH),
    "transformers": Case(by_transformers, of_pipeline, (*TORCH, "transformers")),
}
