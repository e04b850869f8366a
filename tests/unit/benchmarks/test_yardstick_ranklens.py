import numpy as np

from tests.benchmarks.yardstick_ranklens import SHOWN, clicked
from tests.data import real_data


def test_rows_are_those_of_the_clicked_rankings_and_know_nothing_of_their_own_clicks() -> None:
    real_data("ranklens")
    rows = clicked()
    assert len(rows.ids) == 8_773
    assert len(rows.columns) == len(rows.films) == len(rows.label) == 8_773 * SHOWN
    assert rows.label.reshape(-1, SHOWN).any(axis=1).all()
    assert rows.label.sum() <= 46_125
    # Whoever is asked first has clicked nothing, and no film was shown or clicked before.
    past = rows.columns[:SHOWN, -9:]
    np.testing.assert_array_equal(past[:, :3], [[0.2, 0, 0]] * SHOWN)
    np.testing.assert_array_equal(np.nan_to_num(past[:, 3:]), np.zeros((SHOWN, 6)))
