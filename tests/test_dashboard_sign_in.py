"""Signing in to the dashboard: everybody sees and does what their own key may, and nothing else."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from offramp.bundle import load_bundle
from offramp.cli.processes import node_process
from offramp.serving.access.authority import Authority, write
from offramp.serving.access.keys import KeptKey, KeptKeys, Right, new_key
from offramp_dashboard.node_client import NodeClient
from offramp_dashboard.people import People, SignInError
from offramp_dashboard.sign_in import Attempts
from offramp_dashboard.watch import Watch
from tests.browsing import CHROMIUM, launched, opened, show_tab
from tests.conftest import FASHION_BUNDLE, SAMPLES
from tests.nodes import closed_port_address, first_photo, running_edge

pytest.importorskip("nicegui", reason="needs the extra 'dashboard'")

WHO: dict[str, Sequence[Right]] = {
    "dashboard": [Right.WATCH],
    "guest": [Right.WATCH],
    "camera": [Right.ASK],
    "owner": list(Right),
}


@dataclass(frozen=True)
class Keys:
    """A file of keys, and the keys themselves by name."""

    file: Path
    key_of: dict[str, str]

    def revoke(self, name: str) -> None:
        left = tuple(key for key in KeptKeys.read(self.file).keys if key.name != name)
        write(self.file, KeptKeys(keys=left).model_dump_json().encode())


def made_keys(directory: Path) -> Keys:
    made: dict[str, tuple[str, KeptKey]] = {name: new_key(name, rights) for name, rights in WHO.items()}
    file = directory / "keys.json"
    write(file, KeptKeys(keys=tuple(kept for _, kept in made.values())).model_dump_json().encode())
    for name, (key, _) in made.items():
        write(directory / name, key.encode(), secret=True)
    return Keys(file, {name: key for name, (key, _) in made.items()})


@asynccontextmanager
async def signing_in(directory: Path) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient, Keys]]:
    """A client of the dashboard, one of the edge with the owner's key, and the keys."""
    keys = made_keys(directory)
    async with running_edge(load_bundle(FASHION_BUNDLE), blocks="1-2", keys=keys.file) as edge:
        edge.headers["authorization"] = f"Bearer {keys.key_of['owner']}"
        options = ["--edge", str(edge.base_url), "--key-file", str(directory / "dashboard"), "--port", "0"]
        options += ["--samples", str(SAMPLES)]
        with node_process("offramp_dashboard", options, name="dashboard") as dashboard:
            address = f"http://{dashboard.address}"
            async with httpx.AsyncClient(base_url=address, timeout=20, trust_env=False) as page:
                yield page, edge, keys


async def test_nobody_gets_past_the_sign_in_without_a_key_that_may_watch(tmp_path: Path) -> None:
    async with signing_in(tmp_path) as (page, _, keys):
        first = await page.get("/")
        assert (first.status_code, first.headers["location"]) == (303, "/sign-in")
        form = await page.get("/sign-in")
        assert form.status_code == 200 and 'type="password"' in form.text
        for path in ("/_nicegui_ws/socket.io/?EIO=4&transport=polling", "/_nicegui/client/x/upload/1"):
            assert (await page.get(path)).status_code == 401
        for key, says in (("", "No edge takes"), ("camera.x", "No edge takes"), ("a\nb", "No edge takes")):
            refused = await page.post("/sign-in", data={"key": key})
            assert refused.status_code == 401 and says in refused.text and "set-cookie" not in refused.headers
        asking = await page.post("/sign-in", data={"key": keys.key_of["camera"]})
        assert asking.status_code == 401 and "does not have the right to watch" in asking.text
        assert keys.key_of["camera"] not in asking.text
        foreign = await page.post(
            "/sign-in", data={"key": keys.key_of["guest"]}, headers={"origin": "http://evil.example"}
        )
        assert foreign.status_code == 403
        let_in = await page.post("/sign-in", data={"key": f" {keys.key_of['guest']}\r\n"})
        assert let_in.status_code == 303
        cookie = let_in.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and keys.key_of["guest"] not in cookie
        assert (await page.get("/")).status_code == 200
        assert (await page.get("/", headers={"cookie": "offramp=" + "x" * 43})).status_code == 303


async def test_keys_cannot_be_tried_without_end(tmp_path: Path) -> None:
    async with signing_in(tmp_path) as (page, edge, _):
        before = (await edge.get("/metrics")).text
        statuses = [(await page.post("/sign-in", data={"key": f"guest.{n}"})).status_code for n in range(20)]
        assert statuses == [401] * 10 + [429] * 10
        assert refusals((await edge.get("/metrics")).text) - refusals(before) == 10


def refusals(metrics: str) -> float:
    found = re.search(r'^offramp_refused_total\{code="unauthenticated"\} (\S+)', metrics, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_tries_are_counted_for_each_address_and_for_all_together() -> None:
    attempts = Attempts(each=2, together=3)
    assert [attempts.allow(who) for who in ("a", "a", "a", "b", "b")] == [True, True, False, True, False]


async def test_where_edges_are_open_nobody_signs_in() -> None:
    async with running_edge(load_bundle(FASHION_BUNDLE), blocks="1-2") as edge:
        options = ["--edge", str(edge.base_url), "--port", "0"]
        with node_process("offramp_dashboard", options, name="dashboard") as dashboard:
            async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
                found = await client.get(f"http://{dashboard.address}")
            assert found.status_code == 200 and "Sign out" not in found.text


@asynccontextmanager
async def people_of(directory: Path, *, hours: float = 1.0) -> AsyncIterator[tuple[People, Keys]]:
    keys = made_keys(directory)
    async with running_edge(load_bundle(FASHION_BUNDLE), blocks="1-2", keys=keys.file) as edge:
        addresses = [str(edge.base_url), f"http://{closed_port_address()}"]
        clients = {address: NodeClient(address) for address in addresses}
        watches = [Watch(client) for client in clients.values()]
        yield People(watches, clients, has_key=True, hours=hours), keys
        for client in clients.values():
            await client.aclose()


async def test_a_person_has_the_rights_of_their_key_at_the_edges_that_know_it(tmp_path: Path) -> None:
    async with people_of(tmp_path) as (people, keys):
        assert people.have_to_sign_in
        for name in ("guest", "owner"):
            person = people.of(await people.sign_in(keys.key_of[name]))
            assert person is not None and person.name == name
            reached, unreached = person.rights or {}
            assert {right for right in Right if person.may(right, reached)} == set(WHO[name])
            assert not any(person.may(right, unreached) for right in Right)


async def test_a_session_ends_when_its_time_is_over_or_its_key_is_revoked(tmp_path: Path) -> None:
    async with people_of(tmp_path, hours=0.3 / 3600) as (people, keys):
        short = await people.sign_in(keys.key_of["guest"])
        assert people.of(short) is not None
        await asyncio.sleep(0.31)
        assert people.of(short) is None
    async with people_of(tmp_path) as (people, keys):
        session = await people.sign_in(keys.key_of["guest"])
        person = people.of(session)
        assert person is not None
        keys.revoke("guest")
        await asyncio.sleep(1.1)  # the edge looks at its file once a second
        await people.look(person)
        assert people.of(session) is None and person.key is None
        assert not any(person.may(Right.WATCH, address) for address in person.rights or {})


async def test_no_more_people_than_the_dashboard_holds_are_signed_in(tmp_path: Path) -> None:
    async with people_of(tmp_path) as (people, keys):
        for _ in range(64):
            await people.sign_in(keys.key_of["guest"])
        with pytest.raises(SignInError, match="64 people are signed in"):
            await people.sign_in(keys.key_of["guest"])


async def test_keys_and_pages_travel_encrypted(tmp_path: Path) -> None:
    keys = made_keys(tmp_path)
    authority = Authority.made(1)
    authority.keep(tmp_path)
    for node in ("edge", "board"):
        certificate, key = authority.issue(node, ("127.0.0.1",), days=1)
        write(tmp_path / f"{node}.pem", certificate)
        write(tmp_path / f"{node}.key", key, secret=True)
    trusted = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    files: dict[str, Any] = {
        "tls_cert": tmp_path / "edge.pem",
        "tls_key": tmp_path / "edge.key",
        "keys": keys.file,
    }
    async with running_edge(load_bundle(FASHION_BUNDLE), blocks="1-2", trusting=trusted, **files) as edge:
        options = ["--edge", str(edge.base_url), "--key-file", str(tmp_path / "dashboard"), "--port", "0"]
        options += ["--ca", str(tmp_path / "ca.pem")]
        options += ["--tls-cert", str(tmp_path / "board.pem"), "--tls-key", str(tmp_path / "board.key")]
        with node_process("offramp_dashboard", options, name="dashboard") as dashboard:
            address = f"https://{dashboard.address}"
            async with httpx.AsyncClient(
                base_url=address, verify=trusted, trust_env=False, timeout=20
            ) as page:
                let_in = await page.post("/sign-in", data={"key": keys.key_of["guest"]})
                assert let_in.status_code == 303
                assert let_in.headers["set-cookie"].startswith("__Host-offramp=")
                assert "Secure" in let_in.headers["set-cookie"]
                assert (await page.get("/")).status_code == 200


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, as the Debian package installs it")
async def test_who_may_only_watch_can_neither_ask_nor_change_until_the_owner_comes(tmp_path: Path) -> None:
    expect = pytest.importorskip("playwright.async_api").expect
    async with signing_in(tmp_path) as (board, edge, keys), launched() as browser:
        await edge.post("/v1/predict", content=first_photo(SAMPLES, "bag"))
        before = (await edge.get("/v1/policy")).json()
        async with opened(browser, str(board.base_url).rstrip("/")) as page:
            await page.get_by_label("Your key").fill(keys.key_of["guest"])
            await page.get_by_role("button", name="Sign in").click()
            await show_tab(page, "Try it")
            await expect(page.get_by_text("does not have the right to ask")).to_be_visible()
            await expect(page.get_by_role("button", name="Choose a photo")).to_be_disabled()
            await expect(page.get_by_role("button", name="Classify this bag")).to_be_disabled()
            await show_tab(page, "Trade-off")
            await expect(page.get_by_text("does not have the right to change")).to_be_visible()
            await expect(page.locator("button.point").first).to_be_disabled()
            await page.get_by_role("button", name="Sign out").click()
            await page.get_by_label("Your key").fill(keys.key_of["owner"])
            await page.get_by_role("button", name="Sign in").click()
            await show_tab(page, "Try it")
            await page.get_by_role("button", name="Classify this bag").click()
            await expect(page.locator(".answer-label")).to_have_text(re.compile("[a-z]+"))
            await show_tab(page, "Trade-off")
            await page.locator("button.point").last.click()
            await expect(page.locator("button.point.chosen")).to_have_count(1)
            await expect(page.locator("button.point").last).to_have_class(re.compile("chosen"))
        assert (await edge.get("/v1/policy")).json() != before
