"""Measures one bundle and all rivals: servers take turns, round after round, in alternating order."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from pydantic import Field

from benchmarks.serving.backbone import write_backbone
from benchmarks.serving.bare import bare_per_second, non_exiting_ratio, read_photos
from benchmarks.serving.choosing import Chosen
from benchmarks.serving.load import turn, write_script
from benchmarks.serving.rivals import Rival
from benchmarks.serving.servers import Server, offramp, rival
from offramp.bundle import Bundle
from offramp.bundle.manifest import OperatingPoint
from offramp.errors import ConfigError
from offramp.record import Record

OFFRAMP = "Offramp"
ALONE = "Offramp, edge alone"


class Seen(Record):
    """One turn of one server: requests a second, milliseconds, and processor time by process."""

    clients: int
    per_second: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    cpu_us: dict[str, float] = Field(description="microseconds of processor time for a request, by process")


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
    bare_per_second: float = Field(description="photos a second on one core, without a server")
    non_exiting_ratio: float = Field(
        description="time of a sample that passes every exit / the plain backbone"
    )

    @property
    def rivals(self) -> dict[str, Measured]:
        """All servers that ran, except Offramp."""
        return {
            name: each for name, each in self.servers.items() if each.turns and name not in (OFFRAMP, ALONE)
        }

    def best(self, clients: int) -> str:
        """The rival with the highest throughput."""
        return max(self.rivals, key=lambda name: self.rivals[name].median(clients, "per_second"))

    def ratios(self, few: int, many: int) -> dict[str, float]:
        """The figures that the project is judged by."""
        own, best = self.servers[OFFRAMP], self.rivals[self.best(many)]
        soonest = min(each.median(few, "p50_ms") for each in self.rivals.values())
        return {
            f"throughput_ratio_{many}": own.median(many, "per_second") / best.median(many, "per_second"),
            f"latency_ratio_{few}": own.median(few, "p50_ms") / soonest,
            "edge_cpu_ratio": own.cpu_us(many, "edge") / best.cpu_us(many),
            "cpu_ratio": own.cpu_us(many) / best.cpu_us(many),
            "limit_share": self.servers[ALONE].median(many, "per_second") / self.bare_per_second,
            "non_exiting_ratio": self.non_exiting_ratio,
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure, and for how long."""

    clients: Sequence[int]
    rounds: int
    seconds: float
    rivals: Sequence[Rival]
    environments: Path
    photos: Path
    edge: Sequence[str]
    cloud: Sequence[str]

    @property
    def steps(self) -> int:
        """Turns of one bundle."""
        return self.rounds * (len(self.rivals) + 2) * len(self.clients)


def compare(bundle: Bundle, chosen: Chosen, plan: Plan, advance: Callable[[int], None]) -> Comparison:
    """Measure everything about one bundle."""
    photos, point = read_photos(plan.photos, 1000), chosen.point
    with TemporaryDirectory() as folder:
        contexts = _servers(bundle, point, plan, Path(folder), photos[0])
        script = Path(folder) / "photos.lua"
        write_script(script, plan.photos)
        found: dict[str, list[Measured]] = {name: [] for name in contexts}
        for number in range(plan.rounds):
            for name in sorted(contexts, reverse=bool(number % 2)):
                found[name].append(_one(contexts[name], script, plan))
                advance(len(plan.clients))
    return Comparison(
        bundle=bundle.manifest.name,
        point=point.name,
        accuracy_drop=chosen.drop,
        test_accuracy=chosen.test_accuracy,
        test_accuracy_of_backbone=chosen.test_accuracy_of_backbone,
        servers={name: _joined(parts) for name, parts in found.items()},
        bare_per_second=bare_per_second(bundle, point.thetas, photos, rounds=3 * plan.rounds),
        non_exiting_ratio=non_exiting_ratio(bundle, photos[:300], rounds=plan.rounds),
    )


_Context = Callable[[], AbstractContextManager[Server]]


def _servers(
    bundle: Bundle, point: OperatingPoint, plan: Plan, folder: Path, photo: bytes
) -> dict[str, _Context]:
    manifest = bundle.manifest
    spec, model = folder / "spec.json", folder / "backbone.onnx"
    write_backbone(bundle, model)
    size = manifest.preprocessing
    spec.write_text(
        json.dumps(
            {
                "model": str(model),
                "labels": manifest.labels,
                "mode": size.mode,
                "width": size.width,
                "height": size.height,
            }
        ),
        encoding="utf-8",
    )
    ours = {
        OFFRAMP: lambda: offramp(bundle.directory, point.name, photo, edge=plan.edge, cloud=plan.cloud),
        ALONE: lambda: offramp(bundle.directory, point.name, photo, edge=(), cloud=None),
    }
    theirs = {each.name: _starting(each, plan.environments, spec, photo) for each in plan.rivals}
    return {**ours, **theirs}


def _starting(each: Rival, environments: Path, spec: Path, photo: bytes) -> _Context:
    return lambda: rival(each, environments, spec, photo)


def _one(context: _Context, script: Path, plan: Plan) -> Measured:
    try:
        with context() as server:
            # The first second fills caches and compiles what is compiled on first use.
            turn(server.url, script, clients=max(plan.clients), seconds=1, form=server.takes_form)
            seen = tuple(_turn(server, script, clients, plan.seconds) for clients in plan.clients)
            memory = {name: tree.memory_bytes() for name, tree in server.trees.items()}
            return Measured(turns=seen, start_s=(server.start_s,), memory_bytes=memory)
    except ConfigError as error:
        return Measured(failed=str(error))


def _turn(server: Server, script: Path, clients: int, seconds: float) -> Seen:
    before = {name: tree.cpu_s() for name, tree in server.trees.items()}
    done = turn(server.url, script, clients=clients, seconds=seconds, form=server.takes_form)
    spent = {name: (tree.cpu_s() - before[name]) / done.requests * 1e6 for name, tree in server.trees.items()}
    return Seen(
        clients=clients,
        per_second=done.per_second,
        p50_ms=done.p50_ms,
        p90_ms=done.p90_ms,
        p99_ms=done.p99_ms,
        cpu_us=spent,
    )


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
