"""The yardstick of `rank_rpc`: `feast serve` over HTTP, then `Booster.predict`."""

import http.client
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightgbm
import yaml

from deploy.feature_store import SETTINGS
from deploy.ports import HOST, free_port
from deploy.processes import Child, Program, running
from features.as_of_kernels import Floats
from features.candidates import USER_KEY
from tests.benchmarks.stock_feast import TYPED_PROJECT, StockRanker

START_TIMEOUT_S = 120


class KeptAlive:
    """One connection that posts JSON."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=30)

    def post(self, path: str, body: bytes) -> bytes:
        """The body of the answer, which must be 200."""
        self._connection.request("POST", path, body, {"content-type": "application/json"})
        answer = self._connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content[:500]
        return content

    def close(self) -> None:
        self._connection.close()


class ServedStock:
    """What a `stock_feast.StockRanker` does, with its two reads over HTTP on one connection.

    What comes back is parsed, as nobody can rank by JSON text; no feature is computed from it.
    """

    def __init__(
        self, port: int, like: StockRanker, booster: lightgbm.Booster, matrix: Floats
    ) -> None:
        self._http = KeptAlive(port)
        self._booster, self._matrix = booster, matrix
        self._of_request, self._of_candidate = like.of_request, like.of_candidate

    def rank(self, user_id: str, surface: str, candidates: Sequence[Mapping[str, str]]) -> Any:
        """Scores of candidates, each given as its ids by join key."""
        once = {USER_KEY: user_id, "surface": surface}
        self._read(self._of_request, {key: [one] for key, one in once.items()})
        each = [{**once, **ids} for ids in candidates]
        self._read(self._of_candidate, {key: [one[key] for one in each] for key in each[0]})
        return self._booster.predict(self._matrix)

    def found(self, candidates: Sequence[Mapping[str, str]]) -> int:
        """How many of the candidates Feast finds an impression count for: all, if all is well."""
        ids = {key: [one[key] for one in candidates] for key in candidates[0]}
        answer = self._read(["item_activity:impression_total"], ids)
        names = answer["metadata"]["feature_names"]
        (column,) = (
            one["values"]
            for name, one in zip(names, answer["results"], strict=True)
            if name.endswith("impression_total")
        )
        return sum(value is not None for value in column)

    def close(self) -> None:
        self._http.close()

    def _read(self, features: list[str], entities: Mapping[str, list[str]]) -> Any:
        body = {"features": features, "entities": entities, "full_feature_names": True}
        return json.loads(self._http.post("/get-online-features", json.dumps(body).encode()))


@contextmanager
def feast_serve(repo: Path, folder: Path) -> Iterator[Child]:
    """`feast serve` of the typed project (`stock_feast.typed_project`), with Feast's own store."""
    settings = yaml.safe_load((repo / SETTINGS).read_text())
    settings["project"] = TYPED_PROJECT
    settings["registry"]["path"] = f"sqlite:///{folder}/typed.db"
    settings["online_store"]["type"] = "redis"
    settings["offline_store"] = {"type": "file"}
    served = folder / "served"
    served.mkdir()
    (served / SETTINGS).write_text(yaml.safe_dump(settings))
    port = free_port()
    command = [sys.executable, "-m", "feast.cli.cli", "-c", str(served)]
    command += ["serve", "--port", str(port), "--no-access-log", "--registry_ttl_sec", "3600"]
    # It starts its workers anew after 1,000 requests; that is not to happen while it is timed.
    command += ["--max-requests", "1000000"]
    environment = {"FEAST_FS_YAML_FILE_PATH": str(served / SETTINGS)}
    program = Program("feast-serve", command, port, _answers, environment)
    with running(program, folder / "feast-serve.log", START_TIMEOUT_S) as child:
        yield child


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
