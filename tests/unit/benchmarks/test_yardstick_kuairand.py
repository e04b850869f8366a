import numpy as np

from tests.benchmarks.yardstick_kuairand import DAY_MS, AsOfCounts, judged_rows
from tests.data import real_data


def test_requests_and_test_days_are_those_that_the_data_page_counts() -> None:
    real_data("kuairand")
    rows, request, start_ms, test = judged_rows()
    assert len(rows) == 171_671 - 4_390
    assert len(np.unique(request[test])) == 37_406
    clicks = np.bincount(request[test], rows["is_click"].to_numpy()[test])
    sizes = np.bincount(request[test])
    assert np.sum((clicks > 0) & (clicks < sizes)) == 4_734
    assert np.all(start_ms <= rows["time_ms"].to_numpy())


def test_counts_stop_strictly_before_the_asking() -> None:
    random = np.random.default_rng(2)
    time_ms = np.sort(random.integers(0, 4 * 24, 400)) * (DAY_MS // 24)
    as_of_ms = np.maximum(time_ms - random.integers(0, 30, 400) * (DAY_MS // 24), time_ms[0])
    key, clicked = random.integers(0, 5, 400), random.integers(0, 2, 400).astype(float)
    shown, shown_1d, _, clicks, _, clicks_1d, _, rate = AsOfCounts(time_ms, as_of_ms).counters(
        key, {"is_click": clicked}
    )
    for row, now in enumerate(as_of_ms):
        before = (key == key[row]) & (time_ms < now)
        last_day = before & (time_ms >= now - DAY_MS)
        assert (shown[row], shown_1d[row]) == (before.sum(), last_day.sum())
        assert (clicks[row], clicks_1d[row]) == (clicked[before].sum(), clicked[last_day].sum())
        weight = np.exp((time_ms[before] - now) / DAY_MS)
        expected = weight @ clicked[before] + 5 * clicked.mean()
        np.testing.assert_allclose(rate[row], expected / (weight.sum() + 5))
