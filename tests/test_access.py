"""Who may do what: every route and every RPC, for each right, with keys and with tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from cloud_node.server import RIGHTS as OF_METHODS
from edge_node.app import RIGHTS as OF_ROUTES
from edge_node.app import fastapi_app
from edge_node.policy import Policy
from edge_node.settings import EdgeSettings
from offramp.bundle import Bundle
from offramp.errors import ConfigError
from offramp.serving.access.access import Access, AccessFiles
from offramp.serving.access.keys import KeptKeys, Right, new_key
from offramp.serving.running import running_node
from offramp.wire.v1 import wire_pb2 as pb
from tests.commands import offramp
from tests.nodes import Pixels, png, predict, running_cloud, running_edge

_WHO: tuple[Right | None, ...] = (None, *Right)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Right | None, str]]:
    """A file of keys with one for each right, and the keys."""
    made = {right: new_key(right.value, [right]) for right in Right}
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    file.write_text(KeptKeys(keys=tuple(kept for _, kept in made.values())).model_dump_json())
    return file, {right: key for right, (key, _) in made.items()}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def routes_of(app: Any) -> set[tuple[str, str]]:
    """Method and path of everything that an edge node's FastAPI answers."""
    found = set()
    for route in app.routes:
        methods = getattr(route, "methods", None)
        for method in (methods or {"GET"}) - {"HEAD"}:
            found.add((method, route.path if methods else f"{route.path}/*"))
    return found


async def test_no_route_of_the_edge_is_without_a_right_that_it_needs(tiny_bundle: Bundle) -> None:
    settings = EdgeSettings(bundle=tiny_bundle.directory)
    async with running_node(settings, tiny_bundle, (1, 3)) as node:
        assert routes_of(fastapi_app(node, Policy(tiny_bundle.manifest))) == set(OF_ROUTES)


async def test_each_route_lets_in_who_has_its_right_and_nobody_else(
    tiny_bundle: Bundle, tiny_pixels: Pixels, keys: tuple[Path, dict[Right | None, str]]
) -> None:
    file, key_of = keys
    table: dict[tuple[str, str], list[int]] = {}
    async with running_edge(tiny_bundle, blocks="1-3", keys=file) as client:
        for method, path in OF_ROUTES:
            content = {"POST": png(tiny_pixels[0]), "PUT": b'{"thetas": [0.5, 0.5]}'}.get(method)
            for who in _WHO:
                headers = bearer(key_of[who]) if who else {}
                if method == "PUT":
                    headers["content-type"] = "application/json"
                url = path.replace("*", "swagger-ui.css")
                answer = await client.request(method, url, content=content, headers=headers)
                table.setdefault((method, path), []).append(answer.status_code)
    for route, right in OF_ROUTES.items():
        fine = [right is None or (who is not None and right in ("known", who)) for who in _WHO]
        statuses = table[route]
        assert [status < 400 for status in statuses] == fine, (route, statuses)
        assert right is None or statuses[0] == 401, (route, statuses)
        assert all(status in (401, 403) for status, may in zip(statuses, fine, strict=True) if not may), route


async def test_a_path_that_leads_nowhere_is_told_only_to_those_who_are_known(
    tiny_bundle: Bundle, keys: tuple[Path, dict[Right | None, str]]
) -> None:
    file, key_of = keys
    async with running_edge(tiny_bundle, blocks="1-3", keys=file) as client:
        assert (await client.get("/v1/secret")).status_code == 401
        assert (await client.get("/v1/secret", headers=bearer(key_of[Right.ASK]))).status_code == 404
        assert (await client.delete("/v1/policy", headers=bearer(key_of[Right.ASK]))).status_code == 405


async def test_what_a_key_may_do_is_told_and_a_stranger_learns_only_whether_a_node_is_ready(
    tiny_bundle: Bundle, keys: tuple[Path, dict[Right | None, str]]
) -> None:
    file, key_of = keys
    async with running_edge(tiny_bundle, blocks="1-3", keys=file) as client:
        told = await client.get("/v1/access", headers=bearer(key_of[Right.WATCH]))
        assert told.json() == {"name": "watch", "rights": ["watch"]}
        stranger, watcher = (
            await client.get("/readyz"),
            await client.get("/readyz", headers=bearer(key_of[Right.WATCH])),
        )
        assert stranger.json() == {"ready": True, "reason": None, "bundle": None, "upstream": None}
        assert watcher.json()["bundle"] == tiny_bundle.manifest.bundle_id
    async with running_edge(tiny_bundle, blocks="1-3") as client:
        assert (await client.get("/v1/access")).json() == {"name": None, "rights": ["ask", "watch", "change"]}


@pytest.mark.parametrize(
    "shown",
    [
        "",
        "Bearer",
        "Bearer x",
        "Basic",
        "Basic !!",
        "Basic eA==",
        "Digest a",
        "Bearer ask.",
        "Bearer " + 9000 * "x",
    ],
)
async def test_whatever_is_no_key_is_refused_and_not_repeated(
    tiny_bundle: Bundle, keys: tuple[Path, dict[Right | None, str]], shown: str
) -> None:
    async with running_edge(tiny_bundle, blocks="1-3", keys=keys[0]) as client:
        refused = await client.get("/metrics", headers={"authorization": shown})
        assert refused.status_code == 401
        assert refused.json()["code"] == "unauthenticated"
        assert "Bearer" in refused.headers["www-authenticate"]
        assert "xxx" not in refused.text


async def test_a_browser_shows_the_key_as_a_password(
    tiny_bundle: Bundle, keys: tuple[Path, dict[Right | None, str]]
) -> None:
    file, key_of = keys
    async with running_edge(tiny_bundle, blocks="1-3", keys=file) as client:
        found = await client.get("/v1/policy", auth=("anybody", key_of[Right.WATCH]))
        assert found.status_code == 200


def test_keys_are_made_listed_and_revoked_and_kept_as_hashes_only(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    first = offramp("keys", str(file), "camera", "--right", "ask").stdout.strip()
    second = offramp("keys", str(file), "camera", "--right", "ask", "--days", "1").stdout.strip()
    offramp("keys", str(file), "ops", "--right", "watch", "--write", str(tmp_path / "ops.key"))
    assert first not in file.read_text() and second not in file.read_text()
    assert (tmp_path / "ops.key").stat().st_mode & 0o077 == 0
    access = Access(AccessFiles(keys=file))
    assert caller(access, first) == caller(access, second) == ["ask"]
    entry = KeptKeys.read(file).keys[0]
    offramp("keys", str(file), "camera", "--revoke", "--hash", entry.sha256[:8])
    assert caller(Access(AccessFiles(keys=file)), first) is None
    assert caller(Access(AccessFiles(keys=file)), second) == ["ask"]
    listed = offramp("keys", str(file))
    assert "camera" in listed.stderr and "ops" in listed.stderr


def caller(access: Access, key: str) -> Sequence[str] | None:
    found = access.caller(f"Bearer {key}".encode())
    return None if found is None else sorted(found.rights)


def test_a_key_that_is_revoked_while_its_node_runs_stops_working(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key, kept = new_key("camera", [Right.ASK])
    file.write_text(KeptKeys(keys=(kept,)).model_dump_json())
    access = Access(AccessFiles(keys=file))
    assert caller(access, key) == ["ask"]
    file.write_text("{")  # half a file: the keys stay as they were
    time.sleep(1.01)
    assert caller(access, key) == ["ask"]
    file.write_text(KeptKeys().model_dump_json())
    time.sleep(1.01)
    assert caller(access, key) is None


def test_a_file_of_keys_that_is_missing_damaged_or_anybodys_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    with pytest.raises(ConfigError, match="is not there"):
        Access(AccessFiles(keys=file))
    file.write_text('{"keys": [{"name": "a"}]}')
    with pytest.raises(ConfigError, match=r"keys\.0\.rights"):
        Access(AccessFiles(keys=file))
    file.write_text('{"keys": []}')
    file.chmod(0o666)
    with pytest.raises(ConfigError, match="other users may write it"):
        Access(AccessFiles(keys=file))


class TestCalls:
    async def test_no_method_of_the_cloud_is_without_a_right_that_it_needs(self) -> None:
        services = [
            *pb.DESCRIPTOR.services_by_name.values(),
            *health_pb2.DESCRIPTOR.services_by_name.values(),
            *reflection_pb2.DESCRIPTOR.services_by_name.values(),
        ]
        found = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
        assert found == set(OF_METHODS)

    async def test_each_method_lets_in_who_has_its_right_and_nobody_else(
        self, tiny_bundle: Bundle, keys: tuple[Path, dict[Right | None, str]]
    ) -> None:
        file, key_of = keys
        async with (
            running_cloud(tiny_bundle, keys=file) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            for method, right in OF_METHODS.items():
                for who in _WHO:
                    code = await code_of(channel, method, key_of[who] if who else None)
                    if right is None or who == right:
                        assert code not in (
                            grpc.StatusCode.UNAUTHENTICATED,
                            grpc.StatusCode.PERMISSION_DENIED,
                        )
                    elif who is None:
                        assert code is grpc.StatusCode.UNAUTHENTICATED, method
                    else:
                        assert code is grpc.StatusCode.PERMISSION_DENIED, (method, who)

    async def test_an_edge_with_a_key_for_its_upstream_is_let_in(
        self,
        tiny_bundle: Bundle,
        tiny_pixels: Pixels,
        keys: tuple[Path, dict[Right | None, str]],
        tmp_path: Path,
    ) -> None:
        file, key_of = keys
        own = tmp_path / "edge.key"
        own.write_text(key_of[Right.ASK] + "\n")
        own.chmod(0o600)
        async with running_cloud(tiny_bundle, keys=file) as address:
            async with running_edge(tiny_bundle, upstream=address, upstream_api_key=own) as edge:
                await edge.put("/v1/policy", json={"thetas": [1.0, 1.0]})
                assert not (await predict(edge, png(tiny_pixels[0])))["degraded"]
            async with running_edge(tiny_bundle, upstream=address) as edge:
                await edge.put("/v1/policy", json={"thetas": [1.0, 1.0]})
                assert "UNAUTHENTICATED" in (await predict(edge, png(tiny_pixels[0])))["degraded_reason"]


async def code_of(channel: Any, method: str, key: str | None) -> grpc.StatusCode:
    """How a call of a method ends for whoever has this key."""
    metadata = [("authorization", f"Bearer {key}")] if key else None
    try:
        if method.endswith(("Info", "Stream")):
            await channel.stream_stream(method)(iter([b""]), metadata=metadata, timeout=5).read()
        elif method.endswith("Watch"):
            await channel.unary_stream(method)(b"", metadata=metadata, timeout=5).read()
        else:
            await channel.unary_unary(method)(b"", metadata=metadata, timeout=5)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK
