"""LitServe with its dynamic batching: `python -m benchmarks.web_litserve PORT`, in a venv of its own."""

import sys
from types import SimpleNamespace
from typing import Any

import litserve

from benchmarks.web_models import features, load


class Minutes(litserve.LitAPI):  # type: ignore[misc] # not installed where types are checked
    def setup(self, device: str) -> None:
        del device
        self.model = load()

    def decode_request(self, request: dict[str, Any]) -> SimpleNamespace:
        return SimpleNamespace(**request)

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, rides: list[Any]) -> list[dict[str, Any]]:
        predicted = self.model.predict(features(rides)).tolist()
        return [{"ride_id": r.ride_id, "minutes": m} for r, m in zip(rides, predicted, strict=True)]

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    api = Minutes(max_batch_size=64, batch_timeout=0.001, api_path="/predict/minutes")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=60)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="error")
