"""What tests hold of a running gateway, and how they talk to it."""

import asyncio
from dataclasses import dataclass

import aiohttp

from infbox.gateway.settings import Settings
from infbox.keys import KeyStore


@dataclass
class Box:
    """What a test needs of the running gateway."""

    settings: Settings
    store: KeyStore
    key: str
    client: aiohttp.ClientSession

    @property
    def authorized(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def chat(self, **body: object):
        return self.client.post("/v1/chat/completions", json={"messages": [], **body}, headers=self.authorized)

    async def raw(self, request: str) -> bytes:
        """Send exactly these bytes and read until the gateway closes."""
        reader, writer = await asyncio.open_unix_connection(str(self.settings.socket))
        writer.write(request.encode())
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
        return answer

    async def get(self, target: str, header: str = "") -> bytes:
        """GET a target that is sent as it stands; `header` is a line with its end."""
        return await self.raw(f"GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}\r\n")
