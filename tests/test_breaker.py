"""When the breaker takes an upstream for lost, and when it asks again."""

from __future__ import annotations

from offramp.errors import OffloadError, OffloadReason
from offramp.serving.offload.breaker import Breaker


def error(reason: OffloadReason) -> OffloadError:
    return OffloadError("on purpose", reason)


def test_a_breaker_opens_after_so_many_failures_in_a_row() -> None:
    breaker = Breaker(failures=2)
    assert not breaker.failed(error(OffloadReason.LATE))
    breaker.succeeded()
    assert not breaker.failed(error(OffloadReason.LATE))
    assert breaker.failed(error(OffloadReason.UNREACHABLE))
    assert breaker.cause is not None


def test_after_a_loss_one_failure_opens_a_breaker_again_until_a_call_succeeds() -> None:
    breaker = Breaker(failures=3)
    breaker.hold_open(error(OffloadReason.LATE))
    breaker.probed()
    assert breaker.cause is None and breaker.failed(error(OffloadReason.LATE))
    breaker.probed()
    breaker.succeeded()
    assert not breaker.failed(error(OffloadReason.LATE))


def test_a_refusal_does_not_open_a_breaker() -> None:
    breaker = Breaker(failures=1)
    assert not breaker.failed(error(OffloadReason.REFUSED))
    assert breaker.cause is None


def test_one_mismatch_opens_a_breaker() -> None:
    assert Breaker(failures=5).failed(error(OffloadReason.MISMATCH))
