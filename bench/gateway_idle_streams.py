"""What open streams cost the gateway: memory, file descriptors and processor time, with an engine that says little.

Starts the installed `infbox-gateway` between a scripted engine and this process's clients, opens streams, and reads
/proc once all of them have had their first event::

    python bench/gateway_idle_streams.py --streams 500

The peer is the same gateway without streams: the first line of the table.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

import aiohttp

from infbox.gateway.systemd import raise_file_limit
from infbox.keys import KeyStore

PROGRAM = Path(sys.executable).with_name("infbox-gateway")
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n'
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)


async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with one event, and then with silence until the other side closes."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(HEAD + CHUNK)
    while await reader.read(65_536):
        pass
    writer.close()


def cost(process: int) -> tuple[float, int, float]:
    """Resident memory in MB, open file descriptors, processor seconds used so far."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    times = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    seconds = (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
    return int(status["VmRSS"].split()[0]) / 1000, len(os.listdir(f"/proc/{process}/fd")), seconds


async def open_stream(client: aiohttp.ClientSession, body: bytes) -> aiohttp.ClientResponse:
    answer = await client.post("/v1/chat/completions", data=body)
    answer.raise_for_status()
    await answer.content.readany()
    return answer


async def measure(streams: int, prompt_bytes: int, idle_seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        key = KeyStore(root / "keys.json").add("bench")
        await asyncio.start_unix_server(engine, str(root / "engine.sock"), backlog=streams)
        environment = {
            "GATEWAY_SOCKET": str(root / "gateway.sock"),
            "GATEWAY_ENGINE_SOCKET": str(root / "engine.sock"),
            "GATEWAY_KEYS_FILE": str(root / "keys.json"),
            "GATEWAY_SHUTDOWN_TIMEOUT_SECONDS": "0",
        }
        quiet = asyncio.subprocess.DEVNULL
        gateway = await asyncio.create_subprocess_exec(PROGRAM, env=environment, stdout=quiet, stderr=quiet)
        try:
            connector = aiohttp.UnixConnector(str(root / "gateway.sock"), limit=0)
            headers = {"Authorization": f"Bearer {key}"}
            async with aiohttp.ClientSession("http://box", connector=connector, headers=headers) as client:
                while not (root / "gateway.sock").exists():  # noqa: ASYNC110 - made by another process
                    await asyncio.sleep(0.05)
                (await client.get("/health")).release()
                print("streams  resident MB  file descriptors  processor s")
                print("{:7}  {:11.1f}  {:16}  {:11.2f}".format(0, *cost(gateway.pid)))
                body = b'{"stream": true, "prompt": "' + b"x" * prompt_bytes + b'"}'
                answers = [await open_stream(client, body) for _ in range(streams)]
                print("{:7}  {:11.1f}  {:16}  {:11.2f}".format(streams, *cost(gateway.pid)))
                before = cost(gateway.pid)[2]
                await asyncio.sleep(idle_seconds)
                used = cost(gateway.pid)[2] - before
                print(f"{streams} idle streams for {idle_seconds:.0f} s: {used:.2f} processor s")
                for answer in answers:
                    answer.close()
        finally:
            gateway.terminate()
            await gateway.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory, file descriptors and processor time of open streams.")
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--prompt-bytes", type=int, default=1_000, help="size of each request's prompt")
    parser.add_argument("--idle-seconds", type=float, default=10)
    options = parser.parse_args()
    raise_file_limit()
    asyncio.run(measure(options.streams, options.prompt_bytes, options.idle_seconds))


if __name__ == "__main__":
    main()
