"""Who looks at the dashboard, and what they may do at each edge node: exactly what their own key may.

Keys and sessions live in this process's memory only. A session ends when somebody signs out, when its time is over, and
when no edge takes the key for watching any more.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence

from offramp.serving.access.keys import Right
from offramp_dashboard.node_client import NodeClient, NodeError
from offramp_dashboard.schemas import Access
from offramp_dashboard.watch import Watch

LOOK_EVERY_S = 5.0
_MOST = 64  # sessions at a time; each is checked every few seconds


class SignInError(Exception):
    """A key that is not good for signing in; the text says why."""


class Person:
    """Somebody who looks at a page; `key` is None where nobody needs one."""

    def __init__(
        self, name: str | None, key: str | None, rights: Mapping[str, frozenset[Right]] | None
    ) -> None:
        """`rights`: by the address of the edge; None if everybody may do everything everywhere."""
        self.name = name
        self.key = key
        self.rights = rights
        self.has_left = False
        self.since = time.monotonic()

    def may(self, right: Right, address: str) -> bool:
        """Whether this person may do this at an edge node."""
        return not self.has_left and (self.rights is None or right in self.rights.get(address, ()))

    def why_not(self, right: Right, address: str) -> str | None:
        """Why this person may not, for the page; None if they may."""
        if self.may(right, address):
            return None
        return f"The key of {self.name} does not have the right to {right} at this edge."


EVERYBODY = Person(None, None, None)


class People:
    """The people who are signed in."""

    def __init__(
        self, watches: Sequence[Watch], clients: Mapping[str, NodeClient], *, has_key: bool, hours: float
    ) -> None:
        """Nobody is signed in yet.

        Args:
            watches: the edge nodes.
            clients: by address, to ask an edge about a key.
            has_key: whether the dashboard has a key of its own, so that its edges surely ask for one.
            hours: how long a session lasts.
        """
        self._watches = watches
        self._clients = clients
        self._has_key = has_key
        self._lasts_s = hours * 3600
        self._people: dict[str, Person] = {}

    @property
    def have_to_sign_in(self) -> bool:
        """Whether an edge asks for keys; while none could be asked, whether the dashboard was given one."""
        known = [watch.needs_key for watch in self._watches if watch.needs_key is not None]
        return any(known) if known else self._has_key

    def is_over(self, person: Person) -> bool:
        """Whether a page of this person has to go, because their session is over or they have to sign in by now."""
        if person is EVERYBODY:
            return self.have_to_sign_in
        if time.monotonic() - person.since > self._lasts_s:
            self.leave(person)
        return person.has_left

    def of(self, session: str | None) -> Person | None:
        """Whoever has this session; None if it has ended, or never began."""
        person = self._people.get(session or "")
        return None if person is None or self.is_over(person) else person

    async def sign_in(self, key: str) -> str:
        """Begin a session with a key; return the session's secret name.

        Raises:
            SignInError: no edge takes the key for watching, or too many people are signed in.
        """
        self._forget()
        if len(self._people) >= _MOST:
            raise SignInError(f"{_MOST} people are signed in, the most that the dashboard holds.")
        found = await self._asked(key)
        known = [access for access in found.values() if isinstance(access, Access)]
        rights = {address: _rights(access) for address, access in found.items()}
        if not any(Right.WATCH in each for each in rights.values()):
            if known and any(access.rights for access in known):
                raise SignInError(
                    "This key does not have the right to watch, so there is nothing to see with it."
                )
            if all(isinstance(access, NodeError) and access.status is None for access in found.values()):
                raise SignInError(
                    "No edge can be reached, so the key cannot be checked. Try again in a moment."
                )
            raise SignInError("No edge takes this key.")
        session = secrets.token_urlsafe(32)
        self._people[session] = Person(next((one.name for one in known if one.name), None), key, rights)
        return session

    def leave(self, person: Person) -> None:
        """End a session; its pages show nothing any more."""
        person.has_left = True
        person.key = None
        self._forget()

    async def watch(self) -> None:
        """Ask the edges again what each key may, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            for person in list(self._people.values()):
                await self.look(person)

    async def look(self, person: Person) -> None:
        """Ask again what a key may; what an edge that cannot be reached said before stays."""
        if person.key is None or person.rights is None:
            return
        found = await self._asked(person.key)
        person.rights = {
            address: person.rights.get(address, frozenset())
            if isinstance(access, NodeError) and access.status is None
            else _rights(access)
            for address, access in found.items()
        }
        if not any(Right.WATCH in each for each in person.rights.values()):
            self.leave(person)

    async def _asked(self, key: str) -> dict[str, Access | NodeError]:
        answers = await asyncio.gather(*(_access(client, key) for client in self._clients.values()))
        return dict(zip(self._clients, answers, strict=True))

    def _forget(self) -> None:
        for session, person in list(self._people.items()):
            if person.has_left or time.monotonic() - person.since > self._lasts_s:
                person.has_left, person.key = True, None
                del self._people[session]


async def _access(client: NodeClient, key: str) -> Access | NodeError:
    try:
        return await client.using(key).access()
    except NodeError as error:
        return error


def _rights(access: Access | NodeError) -> frozenset[Right]:
    given = access.rights if isinstance(access, Access) else frozenset()
    return frozenset(right for right in Right if right in given)
