"""Measures one bundle and all rivals: servers and a bare loop take turns, round after round, in alternating order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from pydantic import Field

from benchmarks.serving.backbone import write_backbone
from benchmarks.serving.bare import BareLoop, Pass, non_exiting_ratio, read_photos
from benchmarks.serving.checking import Expected, check_rival, expected_answers, none_degraded
from benchmarks.serving.choosing import Chosen
from benchmarks.serving.cores import one_core, other_cores
from benchmarks.serving.load import Turn, turn, write_script
from benchmarks.serving.rivals import Rival
from benchmarks.serving.servers import Server, offramp, rival
from offramp.bundle import Bundle
from offramp.errors import ConfigError
from offramp.record import Record

OFFRAMP = "Offramp"
ALONE = "Offramp, edge alone"
ONE_CORE = "Offramp, edge alone on one core"
_OURS = (OFFRAMP, ALONE, ONE_CORE)


_TIMEOUT = "--offload-timeout-s"
_CHECKED = 8  # photos that every rival has to answer as expected


class Seen(Record):
    """One turn of one server: requests a second, milliseconds, and processor time by part."""

    clients: int
    per_second: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    cpu_us: dict[str, float] = Field(description="microseconds of processor time for a request, by part")
    busiest: float = Field(description="share of the processor time that the busiest process took, 0 to 1")


class Measured(Record):
    """All turns of one server; `failed` says why it has none."""

    turns: tuple[Seen, ...] = ()
    start_s: tuple[float, ...] = ()
    memory_bytes: dict[str, int] = Field(default_factory=dict)
    failed: str | None = None

    def median(self, clients: int, field: str) -> float:
        """The median of one figure over all turns with this many clients."""
        return float(median(getattr(seen, field) for seen in self.turns if seen.clients == clients))

    def cpu_us(self, clients: int, part: str | None = None) -> float:
        """Processor time for a request, of one process or of all."""
        return median(
            seen.cpu_us[part] if part else sum(seen.cpu_us.values())
            for seen in self.turns
            if seen.clients == clients
        )


class Comparison(Record):
    """The figures of one bundle. Ratios are of Offramp to the best rival."""

    bundle: str
    point: str
    accuracy_drop: float = Field(description="points below the plain backbone, on validation samples")
    test_accuracy: float | None = Field(default=None, description="of the point, 0 to 1")
    test_accuracy_of_backbone: float | None = Field(
        default=None, description="of the backbone that the rivals serve, 0 to 1"
    )
    servers: dict[str, Measured]
    bare: tuple[Pass, ...] = Field(description="what a bare loop on one core did in each round")
    non_exiting_ratio: float = Field(
        description="time of a sample that passes every exit / the plain backbone"
    )

    @property
    def rivals(self) -> dict[str, Measured]:
        """All servers that ran, except Offramp."""
        return {name: each for name, each in self.servers.items() if each.turns and name not in _OURS}

    @property
    def decode_ms(self) -> float:
        """What decoding one photo takes, without a server."""
        return median(each.decode_ms for each in self.bare)

    def best(self, clients: int) -> str:
        """The rival with the highest throughput."""
        return max(self.rivals, key=lambda name: self.rivals[name].median(clients, "per_second"))

    def ratios(self, few: int, many: int) -> dict[str, float]:
        """The figures that the project is judged by."""
        own, best = self.servers[OFFRAMP], self.rivals[self.best(many)]
        one_core_per_second = self.servers[ONE_CORE].median(many, "per_second")
        soonest = min(each.median(few, "p50_ms") for each in self.rivals.values())
        return {
            f"throughput_ratio_{many}": own.median(many, "per_second") / best.median(many, "per_second"),
            f"latency_ratio_{few}": own.median(few, "p50_ms") / soonest,
            "edge_cpu_ratio": own.cpu_us(many, "edge") / best.cpu_us(many),
            "cpu_ratio": own.cpu_us(many) / best.cpu_us(many),
            "limit_share": one_core_per_second / median(each.per_second for each in self.bare),
            "non_exiting_ratio": self.non_exiting_ratio,
            "decoding_share": self.decode_ms / 1000 * one_core_per_second,
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure, and for how long.

    photos: the folder to send. sent: how many they are and how large, in words. megapixels: what they were enlarged to,
    if they were. backbone: the bundle whose plain backbone the rivals serve; None: the one that is measured. turbo:
    whether they decode with simplejpeg. point: the one that was asked for; None: chosen by accuracy.
    """

    clients: Sequence[int]
    rounds: int
    seconds: float
    rivals: Sequence[Rival]
    environments: Path
    photos: Path
    sent: str
    backbone: Bundle | None = None
    turbo: bool = False
    point: str | None = None
    megapixels: float | None = None
    edge: Sequence[str]
    cloud: Sequence[str]

    @property
    def steps(self) -> int:
        """Turns of one bundle."""
        return self.rounds * ((len(self.rivals) + len(_OURS)) * len(self.clients) + 1)


def compare(bundle: Bundle, chosen: Chosen, plan: Plan, advance: Callable[[int], None]) -> Comparison:
    """Measure everything about one bundle.

    Raises:
        ConfigError: Offramp itself could not be measured, or none of the rivals.
    """
    photos, point = read_photos(plan.photos, 1000), chosen.point
    loop, bare = BareLoop(bundle, point.thetas, photos), []
    with TemporaryDirectory() as folder:
        contexts = {
            **_ours(bundle.directory, point.name, plan, photos[0]),
            **_theirs(plan.backbone or bundle, plan, Path(folder), photos[:_CHECKED]),
        }
        script = Path(folder) / "photos.lua"
        write_script(script, plan.photos)
        found: dict[str, list[Measured]] = {name: [] for name in contexts}
        for number in range(plan.rounds):
            for name in sorted(contexts, reverse=bool(number % 2)):
                found[name].append(_one(contexts[name], script, plan))
                advance(len(plan.clients))
            bare.append(loop.run(plan.seconds))
            advance(1)
    servers = {name: _joined(parts) for name, parts in found.items()}
    _check_measured(servers)
    return Comparison(
        bundle=bundle.manifest.name,
        point=point.name,
        accuracy_drop=chosen.drop,
        test_accuracy=chosen.test_accuracy,
        test_accuracy_of_backbone=chosen.test_accuracy_of_backbone,
        servers=servers,
        bare=tuple(bare),
        non_exiting_ratio=non_exiting_ratio(bundle, photos, seconds=plan.rounds * plan.seconds),
    )


_Context = Callable[[], AbstractContextManager[Server]]


def _ours(bundle: Path, point: str, plan: Plan, photo: bytes) -> Mapping[str, _Context]:
    return {
        OFFRAMP: partial(_whole, bundle, point, photo, plan),
        ALONE: partial(offramp, bundle, point, photo, edge=plan.edge, cloud=None),
        ONE_CORE: partial(offramp, bundle, point, photo, edge=(), cloud=None, cores=one_core()),
    }


@contextmanager
def _whole(bundle: Path, point: str, photo: bytes, plan: Plan) -> Iterator[Server]:
    patient = () if _TIMEOUT in " ".join(plan.edge) else (_TIMEOUT, "60")
    with (
        offramp(bundle, point, photo, edge=(*plan.edge, *patient), cloud=plan.cloud) as server,
        none_degraded(server),
    ):
        yield server


def _theirs(bundle: Bundle, plan: Plan, folder: Path, photos: Sequence[bytes]) -> Mapping[str, _Context]:
    manifest = bundle.manifest
    spec, model = folder / "spec.json", folder / "backbone.onnx"
    write_backbone(bundle, model)
    what = {
        "model": str(model),
        "labels": manifest.labels,
        "preprocessing": manifest.preprocessing.model_dump(mode="json"),
        "turbo": plan.turbo,
    }
    spec.write_text(json.dumps(what), encoding="utf-8")
    expected = expected_answers(bundle, photos)
    return {each.name: partial(_checked, each, plan.environments, spec, expected) for each in plan.rivals}


@contextmanager
def _checked(each: Rival, environments: Path, spec: Path, expected: Sequence[Expected]) -> Iterator[Server]:
    with rival(each, environments, spec, expected[0].photo) as server:
        check_rival(each, server, expected)
        yield server


def _check_measured(servers: Mapping[str, Measured]) -> None:
    for name in _OURS:
        if not servers[name].turns:
            raise ConfigError(f"{name}: {servers[name].failed}")
    theirs = {name: each for name, each in servers.items() if name not in _OURS}
    if not any(each.turns for each in theirs.values()):
        raise ConfigError("; ".join(f"{name}: {each.failed}" for name, each in theirs.items()))


def _one(context: _Context, script: Path, plan: Plan) -> Measured:
    try:
        with context() as server:
            # The first seconds fill caches and compile what is compiled on first use.
            _ask(server, script, max(plan.clients), max(1.0, plan.seconds / 3))
            seen = tuple(_turn(server, script, clients, plan.seconds) for clients in plan.clients)
            memory = {name: tree.memory_bytes() for name, tree in server.trees.items()}
            return Measured(turns=seen, start_s=(server.start_s,), memory_bytes=memory)
    except ConfigError as error:
        return Measured(failed=str(error))


def _turn(server: Server, script: Path, clients: int, seconds: float) -> Seen:
    server.wait_until_idle()
    before = {name: tree.cpu_s_by_process() for name, tree in server.trees.items()}
    done = _ask(server, script, clients, seconds)
    spent = {
        name: [used - before[name].get(pid, 0.0) for pid, used in tree.cpu_s_by_process().items()]
        for name, tree in server.trees.items()
    }
    by_process = [used for part in spent.values() for used in part]
    return Seen(
        clients=clients,
        per_second=done.per_second,
        p50_ms=done.p50_ms,
        p90_ms=done.p90_ms,
        p99_ms=done.p99_ms,
        cpu_us={name: sum(used) / done.requests * 1e6 for name, used in spent.items()},
        busiest=max(by_process) / max(sum(by_process), 1e-9),
    )


def _ask(server: Server, script: Path, clients: int, seconds: float) -> Turn:
    """A turn of wrk; on the other cores, if the server is kept to some."""
    cores = other_cores(server.cores) if server.cores else None
    return turn(server.url, script, clients=clients, seconds=seconds, form=server.takes_form, cores=cores)


def _joined(parts: Sequence[Measured]) -> Measured:
    ran = [part for part in parts if part.turns]
    if not ran:
        return parts[0]
    return Measured(
        turns=tuple(seen for part in ran for seen in part.turns),
        start_s=tuple(start for part in ran for start in part.start_s),
        memory_bytes=ran[-1].memory_bytes,
        failed=next((part.failed for part in parts if part.failed), None),
    )
