"""What clients share: nobody takes all, and who asks again at once has to wait."""

from __future__ import annotations

from offramp.serving.http.limits import REST_S
from offramp.serving.http.pace import RefusalPace
from offramp.serving.http.share import FairShare


def test_one_client_may_hold_three_quarters() -> None:
    share = FairShare(100)
    assert sum(share.take("a", 1) for _ in range(100)) == 75
    assert share.take("b", 15) and not share.take("a", 1)


def test_all_of_it_if_nobody_else_has_asked_for_long() -> None:
    share = FairShare(8, alone_s=0.0)
    assert all(share.take("a", 1) for _ in range(8)) and not share.take("a", 1)
    share = FairShare(8, alone_s=10.0)
    share.has_room("b")
    assert sum(share.take("a", 1) for _ in range(8)) == 6


def test_what_is_given_back_can_be_taken_again() -> None:
    share = FairShare(4, least=4)
    for _ in range(3):
        assert share.take("a", 4) and not share.take("b", 1)
        share.give("a", 4)


def test_clients_that_each_hold_what_any_may_hold_leave_some() -> None:
    share = FairShare(64, least=16)
    for _ in range(16):
        for stranger in "abcd":
            share.take(stranger, 1)
    assert share.take("you", 3)


def test_one_may_hold_all_that_there_is_if_nobody_holds_any() -> None:
    share = FairShare(16, least=16)
    assert share.take("a", 16) and share.is_full


def test_refusals_that_come_too_fast_make_a_connection_rest() -> None:
    pace = RefusalPace()
    rests = [pace.refused() for _ in range(5_000)]
    assert rests[0] == 0 and 0 < rests[-1] <= REST_S
