"""When a client that brings nothing is given up."""

from streaming.stall import CHECK_S, JOIN_S, StallWatch


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_client_that_stands_before_records_for_two_looks_is_stuck() -> None:
    watch = StallWatch(Clock())
    assert watch.fault(True, {0: 5, 1: 7}, {0: 9, 1: 7}) is None
    assert "partitions [0]" in str(watch.fault(True, {0: 5, 1: 7}, {0: 9, 1: 8}))


def test_a_client_that_moves_or_has_read_everything_is_not() -> None:
    watch = StallWatch(Clock())
    for at in range(3):
        assert watch.fault(True, {0: at, 1: 7}, {0: 9, 1: 7}) is None
    watch.moved()
    assert watch.fault(True, {0: 2}, {0: 9}) is None


def test_a_client_that_never_joins_its_group_is_given_up_and_a_spare_member_is_not() -> None:
    clock = Clock()
    spare, outside = StallWatch(clock), StallWatch(clock)
    for clock.now in range(10, int(JOIN_S) + 10, 10):
        assert spare.fault(True, {}, {}) is None
        assert (outside.fault(False, {}, {}) is None) == (clock.now <= JOIN_S)


def test_a_look_is_due_only_while_nothing_comes() -> None:
    clock = Clock()
    watch = StallWatch(clock)
    assert not watch.due()
    clock.now = CHECK_S
    assert watch.due()
    watch.moved()
    assert not watch.due()
