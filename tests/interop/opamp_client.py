"""Drives the Python OpAMP client against a server, for the interop tests.

    venv/bin/python opamp_client.py --url http://127.0.0.1:4320/v1/opamp --name shop

Polls over HTTP, takes every remote configuration and reports it applied (or
failed, with --fail), and prints one JSON object per line on stdout:

    {"event": "started", "instance_uid": "<32 hex digits>"}
    {"event": "connected"}                       first answer, or first after a failure
    {"event": "connect_failed", "error": "..."}  each failed attempt
    {"event": "config", "hash": "<hex>", "entries": {"<name>": {"content_type": "...", "body": "..."}}}
    {"event": "status", "status": "APPLIED", "hash": "<hex>"}   queued for sending
    {"event": "error", "type": "<enum name>", "message": "..."}   the server's error_response
    {"event": "stopped"}

It runs until stdin closes or SIGTERM or SIGINT arrives, then says
agent_disconnect and exits with 0.

This is not a model agent: what the library does (a request timeout of 1 s, a
sequence number taken when a message is queued and raised when it is sent, a new
instance uid ignored) is left as it is, because that is what is under test.
"""

import argparse
import atexit
import json
import signal
import sys
import threading
import uuid

from opentelemetry._opamp.agent import OpAMPAgent
from opentelemetry._opamp.callbacks import OpAMPCallbacks
from opentelemetry._opamp.client import OpAMPClient
from opentelemetry._opamp.proto import opamp_pb2

APPLIED = opamp_pb2.RemoteConfigStatuses_APPLIED
FAILED = opamp_pb2.RemoteConfigStatuses_FAILED

# Events come from the library's threads as well as from the main one.
_stdout = threading.Lock()


def emit(event, **fields):
    with _stdout:
        print(json.dumps({"event": event, **fields}), flush=True)


class Driver(OpAMPCallbacks):
    """Prints what happens and answers each remote configuration once."""

    def __init__(self, failure):
        self._failure = failure
        self._connected = False

    def on_connect(self, agent, client):
        # The library calls this for every answered request.
        if not self._connected:
            self._connected = True
            emit("connected")

    def on_connect_failed(self, agent, client, error):
        self._connected = False
        emit("connect_failed", error=str(error))

    def on_error(self, agent, client, error_response):
        kind = opamp_pb2.ServerErrorResponseType.Name(error_response.type)
        emit("error", type=kind, message=error_response.error_message)

    def on_message(self, agent, client, message):
        if message.remote_config is None:
            return
        entries = message.remote_config.config.config_map
        config_hash = message.remote_config.config_hash
        bodies = {name: file.body.decode(errors="replace") for name, file in entries.items()}
        emit(
            "config",
            hash=config_hash.hex(),
            entries={
                name: {"content_type": file.content_type, "body": bodies[name]}
                for name, file in entries.items()
            },
        )
        self._answer(agent, client, config_hash, bodies)

    def _answer(self, agent, client, config_hash, bodies):
        status = FAILED if self._failure else APPLIED
        if client.update_remote_config_status(config_hash, status, self._failure) is None:
            return  # the same configuration again: already reported
        if not self._failure:
            client.update_effective_config(bodies, content_type="text/yaml")
        # One message for both: two would be queued with the same sequence number.
        agent.send(client.build_full_state_message())
        emit("status", status="FAILED" if self._failure else "APPLIED", hash=config_hash.hex())


def arguments():
    parser = argparse.ArgumentParser(description="Python OpAMP client of the interop tests")
    parser.add_argument("--url", required=True, help="OpAMP endpoint, http:// or https://")
    parser.add_argument("--name", default="interop-python", help="service.name")
    parser.add_argument("--instance-uid", type=uuid.UUID, help="default: a new UUIDv7")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between heartbeats")
    parser.add_argument("--attribute", action="append", default=[], metavar="KEY=VALUE",
                        help="non-identifying attribute; may be repeated")
    parser.add_argument("--header", action="append", default=[], metavar="KEY=VALUE",
                        help="request header; may be repeated")
    parser.add_argument("--ca-file", help="PEM file of the authority to trust for https://")
    parser.add_argument("--fail", default="", metavar="TEXT",
                        help="report every configuration FAILED with this text")
    return parser.parse_args()


def pairs(items):
    return dict(item.split("=", 1) for item in items)


def connect(args):
    client = OpAMPClient(
        endpoint=args.url,
        headers=pairs(args.header),
        agent_identifying_attributes={"service.name": args.name},
        agent_non_identifying_attributes=pairs(args.attribute),
        tls_certificate=args.ca_file or True,
    )
    if args.instance_uid is not None:
        # The library has no public way to choose the uid.
        client._instance_uid = args.instance_uid.bytes
    return OpAMPAgent(interval=args.interval, callbacks=Driver(args.fail), client=client), client


def wait_for_the_end():
    """Returns when stdin is at its end or a signal asks to stop."""
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())

    def watch_stdin():
        while sys.stdin.buffer.raw.read(4096):
            pass
        end.set()

    threading.Thread(target=watch_stdin, daemon=True).start()
    end.wait()


def main():
    agent, client = connect(arguments())
    agent.start()
    emit("started", instance_uid=client._instance_uid.hex())
    wait_for_the_end()
    agent.stop(timeout=5)
    # The library stops again at exit, which would be a second agent_disconnect.
    atexit.unregister(agent.stop)
    emit("stopped")


if __name__ == "__main__":
    main()
