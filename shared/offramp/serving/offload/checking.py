"""Checks what an upstream answers. Nothing that it says is passed on before it has been compared with the bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from offramp.bundle.manifest import Manifest
from offramp.engine.tier import Answer
from offramp.errors import OffloadError, OffloadReason
from offramp.serving.answers import Answers, Classified, TierTime
from offramp.serving.call import Call
from offramp.wire.messages import is_tier_name, probabilities_from_bytes, told
from offramp.wire.v1 import wire_pb2 as pb

_MOST_TIERS = 16  # behind this node
_MOST_MS = 86_400_000.0


class AnswerCheck:
    """Turns the messages of one upstream into answers."""

    def __init__(self, manifest: Manifest, target: str) -> None:
        """Compare with this bundle; `target` is the upstream, for errors."""
        self._manifest = manifest
        self._num_exits = manifest.num_exits
        self._exit_blocks = manifest.exit_blocks
        self._target = target

    def answers(self, response: pb.InferResponse, call: Call, *, uplink_bytes: int = 0) -> Answers:
        """The answers to a call's samples, each of which took so many bytes.

        Raises:
            OffloadError: something in the message cannot be so.
        """
        self._check_ids([each.request_id for each in response.answers], call)
        before = self._exits_before(call.first_block)
        samples = [self._classified(answer, call, before, uplink_bytes) for answer in response.answers]
        return Answers(samples, self._times(response.times))

    def _check_ids(self, found: Sequence[str], call: Call) -> None:
        asked = [sample.request_id for sample in call.samples]
        if found != asked:
            self._refuse(
                f"answered {len(found)} samples {[told(each) for each in found[:3]]}, asked for "
                f"{len(asked)} {asked[:3]}; it is not an Offramp node of this version"
            )

    def _classified(self, message: pb.Answer, call: Call, before: int, uplink_bytes: int) -> Classified:
        manifest = self._manifest
        probabilities_K = probabilities_from_bytes(message.probabilities, manifest)
        if (
            probabilities_K is None
            or not before < message.exit_number <= self._num_exits
            or not 0 <= message.confidence <= 1
        ):
            self._refuse(
                f"answered with {len(message.probabilities)} bytes of probabilities, "
                f"confidence {message.confidence:g}, exit {message.exit_number}; expected "
                f"{manifest.task.num_outputs(len(manifest.labels))} float32 of {manifest.task.kind}, 0 to 1, and "
                f"{before + 1} to {self._num_exits}"
            )
        answer = Answer(
            probabilities_K,
            message.confidence,
            message.exit_number,
            self._passed(message, before),
            message.unfamiliar,
        )
        reason = told(message.degraded_reason) or None
        return Classified(answer, self._tier(message.tier), reason, sent=call.sent, uplink_bytes=uplink_bytes)

    def _exits_before(self, first_block: int) -> int:
        return sum(block < first_block for block in self._exit_blocks)

    def _passed(self, message: pb.Answer, before: int) -> tuple[float, ...]:
        """Confidences of the exits that the upstream passed, after the `before` first ones; () if it tells none."""
        passed = tuple(message.passed)
        least = message.exit_number - before - (not message.degraded_reason)
        most = self._num_exits - before - 1 if message.degraded_reason else least
        wanted = f"{least}" if least == most else f"{least} to {most}"
        # NaN compares as False, so it is refused too.
        if passed and not (least <= len(passed) <= most and all(0 <= one <= 1 for one in passed)):
            self._refuse(
                f"says that a sample passed exits with confidences {_listed(passed)} before exit "
                f"{message.exit_number} answered; expected {wanted}, each from 0 to 1"
            )
        return passed

    def _times(self, times: Sequence[pb.TierTime]) -> list[TierTime]:
        if len(times) > _MOST_TIERS:
            self._refuse(f"tells times of {len(times)} tiers; expected at most {_MOST_TIERS}")
        for time in times:
            if not (0 <= time.queue_ms <= _MOST_MS and 0 <= time.compute_ms <= _MOST_MS):
                self._refuse(
                    f"says that it queued for {time.queue_ms:g} ms and computed for {time.compute_ms:g} ms; expected "
                    "0 or more, and less than a day"
                )
        return [TierTime(self._tier(time.tier), time.queue_ms, time.compute_ms) for time in times]

    def _tier(self, name: str) -> str:
        if not is_tier_name(name):
            self._refuse(
                f"calls its tier '{told(name, 80)}'; expected up to 40 lower-case letters, digits, '.', '_' and '-'"
            )
        return name

    def _refuse(self, what: str) -> NoReturn:
        raise OffloadError(f"{self._target} {what}", OffloadReason.REFUSED)


def largest_answer(manifest: Manifest, max_samples: int) -> int:
    """Most bytes of an answer to so many samples, each with all that it may say."""
    numbers = manifest.task.num_outputs(len(manifest.labels)) + manifest.num_exits
    return 65_536 + max_samples * (4 * numbers + 2048)


def _listed(confidences: Sequence[float]) -> str:
    shown = ", ".join(f"{one:g}" for one in confidences[:8])
    return f"{shown}, …" if len(confidences) > 8 else shown
