import json

import pytest

from tests.benchmarks.__main__ import BENCHMARKS, main
from tests.benchmarks.report import Result, print_result


def test_the_last_line_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(Result("forest", {"p50_ms": 1.5}, {"p50_ms": 12.0}, {"booster": 8.0}))
    *table, last = capsys.readouterr().out.splitlines()
    assert json.loads(last) == {
        "benchmark": "forest",
        "ours": {"p50_ms": 1.5},
        "yardstick": {"p50_ms": 12.0},
        "ratio": {"booster": 8.0},
    }
    assert any("p50_ms" in line and "1.5" in line and "12" in line for line in table)


def test_a_figure_that_is_not_a_number_is_no_result() -> None:
    with pytest.raises(ValueError, match="JSON"):
        print_result(Result("forest", {"p50_ms": float("nan")}, {}, {}))


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["forest", "rank"]])
def test_without_a_known_name_the_names_are_listed(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert ", ".join(BENCHMARKS) in capsys.readouterr().out
