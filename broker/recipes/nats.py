"""The recipe for a NATS server with JetStream and its MQTT listener, alone or as one node of a cluster.

Pure. Tried with 2.15.1. NATS has no patterns of user names: each till is a line of ``users.conf`` with its own rights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from broker.access import Identity, grants, identity
from broker.settings import MIB

from .nftables import rules
from .plan import INFLIGHT_MAX, PACKET_LIMIT_BYTES, Files, Plan

FILE_STORE_BYTES, STORE_PER_TILL_BYTES = 2048 * MIB, 64 * 1024
MEMORY_STORE_BYTES = 256 * MIB
REPLICAS_MAX = 3
API_TIMEOUT_S = 10
UNUSED_S = 600
DELIVERY = "$MQTT.sub.>"
"""Where NATS itself hands a subscription of QoS 1 its messages; no MQTT client can subscribe to it by name."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The nodes of a cluster by their routes, ``host:port``, the same list on every node; ``node`` counts from 1."""

    name: str
    node: int
    routes: tuple[tuple[str, int], ...]


def parse_routes(text: str) -> tuple[tuple[str, int], ...]:
    """Return the routes of ``host:port,host:port,…``; raises ValueError that says what would be right."""
    found = []
    for part in text.split(","):
        route = urlsplit(f"//{part.strip()}")
        if not route.hostname or not route.port:
            raise ValueError(f"{part.strip()!r} is no route: host:port, such as 10.0.0.1:6222")
        found.append((route.hostname, route.port))
    return tuple(found)


def files(plan: Plan, state_dir: str, monitor: str, cluster: Cluster | None) -> Files:
    """Return the whole configuration of one server; raises ValueError if it knows no till."""
    plan.require_till_ids()
    return {
        "nats.conf": "\n".join(_server(plan, state_dir, monitor, cluster)) + "\n",
        "users.conf": _users(plan),
        "nats.service": _unit(plan, state_dir),
        "nftables.conf": rules(plan),
        "README.md": _readme(plan, state_dir, monitor, cluster),
    }


def _server(plan: Plan, state_dir: str, monitor: str, cluster: Cluster | None) -> list[str]:
    nodes = len(cluster.routes) if cluster else 1
    lines = [
        "# NATS for tillstream. README.md beside this file says what to do with it.",
        f"server_name: {_text(f'{cluster.name}-{cluster.node}' if cluster else 'tillstream')}",
        "# NATS's own protocol: nobody in users.conf may log in by it.",
        'listen: "127.0.0.1:-1"',
        "# /healthz says whether this server is in step, /connz who is connected.",
        f"http: {_text(monitor)}",
        f"max_connections: {plan.connections_max}",
        f"max_payload: {PACKET_LIMIT_BYTES}",
        'write_deadline: "10s"',
        f"include {_text('./users.conf')}",
        "",
        "jetstream {",
        f"  store_dir: {_text(state_dir)}",
        f"  max_file_store: {FILE_STORE_BYTES + STORE_PER_TILL_BYTES * plan.tills}",
        f"  max_memory_store: {MEMORY_STORE_BYTES}",
        "}",
        "mqtt {",
        f"  listen: {_text(f'{plan.host}:{plan.port}')}",
        f"  max_ack_pending: {INFLIGHT_MAX}",
        "  # Central acknowledges when it has committed; until then NATS waits so long before it says a thing again.",
        '  ack_wait: "30s"',
        f"  stream_replicas: {min(nodes, REPLICAS_MAX)}",
        "  # Each subscription elects a leader among the nodes. If the first choice was just lost, it takes up to 9 s;",
        "  # with the 5 s that NATS waits by itself, one or another of central's would fail, time after time.",
        f'  js_api_timeout: "{API_TIMEOUT_S}s"',
        "  # What a client that never came back had subscribed to would keep every message for it, for ever.",
        f'  consumer_inactive_threshold: "{UNUSED_S}s"',
        "  consumer_memory_storage: true",
        *_tls(plan, maps=plan.security == "mutual"),
        "}",
    ]
    return lines + (_routes(plan, cluster) if cluster else [])


def _tls(plan: Plan, *, maps: bool) -> list[str]:
    if plan.security == "plain":
        return []
    own = [f"    cert_file: {_text(plan.file('server.crt'))}", f"    key_file: {_text(plan.file('server.key'))}"]
    if maps:
        own += [f"    ca_file: {_text(plan.file('ca.crt'))}", "    verify_and_map: true"]
    return ["  tls {", *own, "  }"]


def _routes(plan: Plan, cluster: Cluster) -> list[str]:
    """Let the nodes know each other by a password; its user name has a dot, which no till id has."""
    user = f"route.{cluster.name}"
    host, port = cluster.routes[cluster.node - 1]
    others = [route for number, route in enumerate(cluster.routes, 1) if number != cluster.node]
    urls = [_text(f"nats://{user}:{plan.token(user)}@{_bracketed(host)}:{port}") for host, port in others]
    tls = [line.replace("  }", f"    ca_file: {_text(plan.file('ca.crt'))}\n  }}") for line in _tls(plan, maps=False)]
    return [
        "cluster {",
        f"  name: {_text(cluster.name)}",
        f"  listen: {_text(f'{_bracketed(host)}:{port}')}",
        f"  authorization {{ user: {_text(user)}, password: {_text(plan.token(user))} }}",
        f"  routes: [{', '.join(urls)}]",
        *tls,
        "}",
    ]


def _users(plan: Plan) -> str:
    known = [who for user in plan.users if (who := identity(user))]
    lines = (f"    {json.dumps(_user(plan, who))}" for who in known)
    return "\n".join(["authorization {", "  users: [", *lines, "  ]", "}"]) + "\n"


def _user(plan: Plan, who: Identity) -> dict[str, Any]:
    """Return who may do what; by certificate the name is the whole subject, which has nothing but the CN."""
    rights: dict[str, list[str]] = {"write": [], "read": [DELIVERY]}
    for grant in grants():
        if grant.party == who.party:
            rights[grant.access].append(_subject(grant.pattern, who))
    is_by_name = plan.security == "mutual"
    login = {"user": f"CN={who.user}"} if is_by_name else {"user": who.user, "password": plan.token(who.user)}
    return {
        **login,
        "permissions": {"publish": {"allow": rights["write"]}, "subscribe": {"allow": rights["read"]}},
        "allowed_connection_types": ["MQTT"],
    }


def _subject(pattern: str, who: Identity) -> str:
    named = pattern.replace("<till>", who.user).replace("<worker>", str(who.worker))
    return named.replace("/", ".").replace("+", "*")


def _text(value: str) -> str:
    return json.dumps(value)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _unit(plan: Plan, state_dir: str) -> str:
    return f"""[Unit]
Description=NATS for tillstream
After=network-online.target
StartLimitIntervalSec=0
[Service]
ExecStart=/usr/bin/nats-server -c {plan.file("nats.conf")}
ExecReload=/bin/kill -HUP $MAINPID
User={plan.account}
ReadWritePaths={state_dir}
ProtectSystem=strict
Restart=always
RestartSec=2
LimitNOFILE={2 * plan.connections_max + 1024}
[Install]
WantedBy=multi-user.target
"""


def _readme(plan: Plan, state_dir: str, monitor: str, cluster: Cluster | None) -> str:
    tls = {
        "plain": "",
        "tls": "Put `server.crt` and `server.key` into this folder, the key 0640.\n\n",
        "mutual": "Put `ca.crt`, `server.crt` and `server.key` (0640) into this folder. A client's certificate\n"
        "has a subject of nothing but its CN, which is its name. NATS reads no CRL: a till is taken back by the\n"
        "deny list.\n\n",
    }[plan.security]
    nodes = ""
    if cluster:
        nodes = f"""This is node {cluster.node} of {len(cluster.routes)} of the cluster `{cluster.name}`.
Run the recipe on each node with its own `--node` and the same `--routes`; give tills and central all nodes in
`broker_urls`. With TLS `server.crt` is shown to the other nodes too and checked with `ca.crt`: it needs both uses,
server and client. While one node of three is away all goes on, after a pause; with two away nothing does. A node that
was started again counts as away until it is in step: take the next one down only when
`curl -f http://{monitor}/healthz` says so.

"""
    return f"""# NATS for tillstream

Made by `tillstream broker recipe nats` for up to {plan.tills} tills and {plan.workers} workers.

{tls}{nodes}```sh
useradd --system {plan.account}; mkdir -p {state_dir}
chown {plan.account} {state_dir}
chgrp -R {plan.account} {plan.folder}      # the account reads there; nobody but root writes what root runs
install -D {plan.file("nats.service")} /etc/systemd/system/nats.service
systemctl daemon-reload
systemctl enable --now nats
nft -f {plan.file("nftables.conf")}         # and include it in /etc/nftables.conf, so that it is there after a reboot
```

`users.conf` has {len(plan.till_ids)} tills. For new ones, and to deny one or a worker of central (`--deny`), run
the recipe again on each node, then `systemctl reload nats`: who is not in it any more is thrown out at once, the
others stay.

NATS does not bind a client id to its user: a till that has a token can end another till's connection by taking
its client id. It reads and writes nothing of it, and the other comes back.

A second run of the recipe leaves files that you changed as they are, and says which.
"""
