"""Encryption between clients, edges and clouds: certificates that fit, that don't, and that change while nodes run."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from offramp.bundle import Bundle
from offramp.serving.access import authority as authority_module
from offramp.serving.access.authority import Authority, write
from tests.commands import offramp
from tests.nodes import Pixels, png, predict, running_cloud, running_edge

_LOCAL = ("localhost", "127.0.0.1")
_NEVER = {"thetas": [1.0, 1.0]}  # no exit of the edge is confident


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates that `offramp certs` made for edge-1 and cloud."""
    directory = tmp_path_factory.mktemp("certs")
    offramp("certs", str(directory), "--node", "edge-1", "--node", "cloud=127.0.0.1")
    return directory


def shown(directory: Path, name: str) -> dict[str, Any]:
    return {"tls_cert": directory / f"{name}.pem", "tls_key": directory / f"{name}.key"}


def upstream(directory: Path, name: str | None = "edge-1", ca: Path | None = None) -> dict[str, Any]:
    own = {} if name is None else {f"upstream_{key}": path for key, path in shown(directory, name).items()}
    return {"upstream_tls_ca": ca or directory / "ca.pem", **own}


def trusting(directory: Path, client: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
    if client:
        context.load_cert_chain(directory / f"{client}.pem", directory / f"{client}.key")
    return context


def issued(directory: Path, name: str, *, days: int = 1) -> None:
    """A new certificate of the directory's authority, in place of one that may be there."""
    made = Authority.kept_in(directory)
    assert made is not None
    certificate, key = made.issue(name, _LOCAL, days=days)
    write(directory / f"{name}.key", key, secret=True)
    write(directory / f"{name}.pem", certificate)


@asynccontextmanager
async def pair(
    bundle: Bundle, certs: Path, edge: dict[str, Any], **cloud: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """An edge, all of whose samples are offloaded, and its cloud."""
    async with (
        running_cloud(bundle, **shown(certs, "cloud"), **cloud) as address,
        running_edge(bundle, upstream=address, **edge) as client,
    ):
        await client.put("/v1/policy", json=_NEVER)
        yield client


async def test_an_edge_answers_over_https_and_not_over_http(
    tiny_bundle: Bundle, tiny_pixels: Pixels, certs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_edge(
        tiny_bundle, blocks="1-3", trusting=trusting(certs), **shown(certs, "edge-1")
    ) as client:
        assert (await predict(client, png(tiny_pixels[0])))["exit"]["tier"] == "edge"
        plain = str(client.base_url).replace("https", "http")
        async with httpx.AsyncClient(base_url=plain, trust_env=False) as other:
            with caplog.at_level(logging.WARNING), pytest.raises(httpx.HTTPError):
                await other.get("/healthz")
        refused = [record.message for record in caplog.records if "tls_refused" in record.message]
        assert len(refused) == 1 and "plain HTTP" in refused[0]


async def test_a_client_that_knows_another_authority_turns_away(
    tiny_bundle: Bundle, certs: Path, tmp_path: Path
) -> None:
    Authority.made(1).keep(tmp_path)
    async with (
        running_edge(tiny_bundle, blocks="1-3", trusting=trusting(certs), **shown(certs, "edge-1")) as client,
        httpx.AsyncClient(verify=trusting(tmp_path), trust_env=False) as other,
    ):
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await other.get(f"{client.base_url}/healthz")


async def test_an_edge_may_ask_its_clients_for_certificates(
    tiny_bundle: Bundle, certs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = trusting(certs, "edge-1")
    more = {"tls_client_ca": certs / "ca.pem", **shown(certs, "cloud")}
    async with running_edge(tiny_bundle, blocks="1-3", trusting=known, **more) as client:
        assert (await client.get("/healthz")).status_code == 200
        async with httpx.AsyncClient(verify=trusting(certs), trust_env=False) as other:
            with caplog.at_level(logging.WARNING), pytest.raises(httpx.HTTPError):
                await other.get(f"{client.base_url}/healthz")
    assert any("shows no certificate" in record.message for record in caplog.records)


async def test_an_edge_and_its_cloud_show_each_other_certificates(
    tiny_bundle: Bundle, tiny_pixels: Pixels, certs: Path
) -> None:
    more = {"tls_client_ca": certs / "ca.pem", "client_names": ("edge-1",)}
    async with pair(tiny_bundle, certs, upstream(certs), **more) as edge:
        answer = await predict(edge, png(tiny_pixels[0]))
        assert (answer["exit"]["tier"], answer["degraded"]) == ("cloud", False)


@pytest.mark.parametrize("case", ["none", "foreign", "another name", "expired", "not encrypted"])
async def test_a_cloud_takes_no_call_without_the_right_certificate(
    tiny_bundle: Bundle,
    tiny_pixels: Pixels,
    certs: Path,
    tmp_path: Path,
    case: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = Authority.made(1)
    other.keep(tmp_path)
    issued(tmp_path, "edge-1")
    edge = {
        "none": upstream(certs, None),
        "foreign": upstream(tmp_path, ca=certs / "ca.pem"),
        "another name": upstream(certs, "cloud"),
        "expired": upstream(certs),
        "not encrypted": {},
    }[case]
    if case == "expired":
        # The edge's own check would refuse it at the start, so let it expire afterwards, for the cloud alone.
        monkeypatch.setattr(authority_module, "_BEFORE", timedelta(days=3))
        issued(tmp_path, "edge-2")
        kept = Authority.kept_in(certs)
        assert kept is not None
        certificate, key = kept.issue("edge-1", _LOCAL, days=-1)
        write(tmp_path / "old.pem", certificate)
        write(tmp_path / "old.key", key, secret=True)
        monkeypatch.setattr("offramp.serving.access.certificates._check_dates", lambda *_: None)
        edge = upstream(tmp_path, "old", ca=certs / "ca.pem")
    more = {"tls_client_ca": certs / "ca.pem", "client_names": ("edge-1",)}
    async with pair(tiny_bundle, certs, edge, **more) as client:
        answer = await predict(client, png(tiny_pixels[0]))
        assert answer["degraded"]
        assert ("may not" if case == "another name" else "cannot be reached") in answer[
            "degraded_reason"
        ] or ("PERMISSION_DENIED" in answer["degraded_reason"])
        assert (await client.get("/readyz")).json()["ready"]


async def test_an_edge_sends_nothing_to_a_cloud_whose_certificate_it_does_not_trust(
    tiny_bundle: Bundle, tiny_pixels: Pixels, certs: Path, tmp_path: Path
) -> None:
    Authority.made(1).keep(tmp_path)
    async with pair(tiny_bundle, certs, upstream(certs, None, ca=tmp_path / "ca.pem")) as client:
        assert "cannot be reached" in (await predict(client, png(tiny_pixels[0])))["degraded_reason"]
    async with pair(
        tiny_bundle, certs, {**upstream(certs, None), "upstream_tls_name": "other.example"}
    ) as client:
        assert "cannot be reached" in (await predict(client, png(tiny_pixels[0])))["degraded_reason"]
    async with (
        running_cloud(tiny_bundle) as plain,
        running_edge(tiny_bundle, upstream=plain, **upstream(certs, None)) as client,
    ):
        await client.put("/v1/policy", json=_NEVER)
        assert "cannot be reached" in (await predict(client, png(tiny_pixels[0])))["degraded_reason"]


async def test_a_certificate_that_is_replaced_is_used_without_a_restart(
    tiny_bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Authority.made(1).keep(tmp_path)
    issued(tmp_path, "edge")
    async with running_edge(
        tiny_bundle, blocks="1-3", trusting=trusting(tmp_path), **shown(tmp_path, "edge")
    ) as client:
        before = await serial(client, tmp_path)
        whole = (tmp_path / "edge.pem").read_bytes()
        (tmp_path / "edge.pem").write_bytes(whole[: len(whole) // 2])
        await asyncio.sleep(1.05)
        with caplog.at_level(logging.WARNING):
            assert await serial(client, tmp_path) == before
        assert any("certificates_not_replaced" in record.message for record in caplog.records)
        issued(tmp_path, "edge")
        await asyncio.sleep(1.05)
        assert await serial(client, tmp_path) != before


async def serial(client: httpx.AsyncClient, directory: Path) -> str:
    """Serial number of the certificate that a node shows to a new connection."""
    address = client.base_url
    _, writer = await asyncio.open_connection(address.host, address.port, ssl=trusting(directory))
    found: str = writer.get_extra_info("peercert")["serialNumber"]
    writer.close()
    return found


async def test_the_certificates_between_tiers_can_be_replaced_without_a_restart(
    tiny_bundle: Bundle, tiny_pixels: Pixels, tmp_path: Path
) -> None:
    Authority.made(1).keep(tmp_path)
    issued(tmp_path, "edge-1")
    issued(tmp_path, "cloud")
    async with pair(tiny_bundle, tmp_path, upstream(tmp_path), tls_client_ca=tmp_path / "ca.pem") as edge:
        assert not (await predict(edge, png(tiny_pixels[0])))["degraded"]
        # A new authority: who shows or trusts the old one is not let in any more.
        Authority.made(1).keep(tmp_path)
        issued(tmp_path, "edge-1")
        issued(tmp_path, "cloud")
        await asyncio.sleep(1.05)
        assert not (await predict(edge, png(tiny_pixels[0])))["degraded"]
