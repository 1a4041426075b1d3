"""The recipe for Mosquitto: every limit it has, access by patterns of its own user names, nothing kept on its disk.

Pure. Written for and tried with Debian's 2.0.11.
"""

from __future__ import annotations

import base64
import hashlib

from broker.access import mosquitto_acl
from broker.settings import MIB

from .nftables import rules
from .plan import INFLIGHT_MAX, PACKET_LIMIT_BYTES, Files, Plan

MEMORY_BYTES, MEMORY_PER_TILL_BYTES = 512 * MIB, 32 * 1024
RETAINED_PER_TILL = 2
"""Doorbell and presence: so many messages of each till wait for central at the moment it subscribes."""


def files(plan: Plan) -> Files:
    """Return the whole configuration; raises ValueError if it needs to know the tills and does not."""
    made = {
        "mosquitto.conf": "\n".join([*_general(plan), "", *_listener(plan)]) + "\n",
        # A denied user loses all rights at the next reload, with a live connection too.
        "acl": mosquitto_acl(plan.workers, plan.denied),
        "systemd.conf": _unit(plan),
        "nftables.conf": rules(plan),
        "README.md": _readme(plan),
    }
    if plan.security != "mutual":
        plan.require_till_ids()
        made["passwords"] = "".join(password_line(user, plan.token(user)) for user in plan.users)
    return made


def _general(plan: Plan) -> list[str]:
    return [
        "# Mosquitto for tillstream. README.md beside this file says what to do with it.",
        "",
        "# Nothing needs to survive: every durable fact lies at the till or at central. A file that a full disk",
        "# has torn would keep Mosquitto from starting until somebody deletes it.",
        "persistence false",
        f"user {plan.account}",
        "per_listener_settings true",
        "set_tcp_nodelay true",
        "",
        "# For central when it subscribes: the retained doorbell and presence of each till, and what comes meanwhile.",
        "# The default of 1,000 silently drops the rest.",
        f"max_queued_messages {RETAINED_PER_TILL * plan.tills + 10_000}",
        f"max_queued_bytes {256 * MIB}",
        "# The default of 20 would be the size of central's commits.",
        f"max_inflight_messages {INFLIGHT_MAX}",
        "# Not message_size_limit: that one acknowledges what is too long and drops it in silence.",
        f"max_packet_size {PACKET_LIMIT_BYTES}",
        f"memory_limit {MEMORY_BYTES + MEMORY_PER_TILL_BYTES * plan.tills}",
        "# MQTT 5 only; a till speaks 3.1.1, and its keepalive_s is bounded by its own configuration.",
        "max_keepalive 3600",
        "",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "connection_messages true",
    ]


def _listener(plan: Plan) -> list[str]:
    lines = [
        f"listener {plan.port} {plan.host}",
        f"max_connections {plan.connections_max}",
        "max_qos 1",
        "allow_anonymous false",
        "allow_zero_length_clientid false",
        "# Or any till could end the connection of any other by taking its client id.",
        "use_username_as_clientid true",
        f"acl_file {plan.file('acl')}",
    ]
    if plan.security != "plain":
        lines += [
            f"certfile {plan.file('server.crt')}",
            f"keyfile {plan.file('server.key')}",
            "tls_version tlsv1.2",
        ]
    if plan.security != "mutual":
        return [*lines, f"password_file {plan.file('passwords')}"]
    return [
        *lines,
        f"cafile {plan.file('ca.crt')}",
        f"crlfile {plan.file('crl.pem')}",
        "require_certificate true",
        "# The CN of a client's certificate is its user name: there is no list of tills.",
        "use_identity_as_username true",
    ]


def password_line(user: str, token: str) -> str:
    """Return a line of the password file: PBKDF2-SHA512, as mosquitto_passwd writes it.

    The salt is made from the token, so that a second run writes the same line; a token is as good as random, and its
    salt need only differ from others'.
    """
    salt = hashlib.blake2b(token.encode(), digest_size=12, person=b"salt").digest()
    digest = hashlib.pbkdf2_hmac("sha512", token.encode(), salt, 101)
    salt_text, digest_text = (base64.b64encode(raw).decode() for raw in (salt, digest))
    return f"{user}:$7$101${salt_text}${digest_text}\n"


def _unit(plan: Plan) -> str:
    return f"""[Unit]
StartLimitIntervalSec=0
[Service]
ExecStart=
ExecStart=/usr/sbin/mosquitto -c {plan.file("mosquitto.conf")}
Restart=always
RestartSec=2
LimitNOFILE={plan.connections_max + 1024}
"""


def _readme(plan: Plan) -> str:
    tls = {
        "plain": "",
        "tls": "Put `server.crt` and `server.key` into this folder, the key 0640.\n\n",
        "mutual": "Put `ca.crt`, `server.crt`, `server.key` (0640) and `crl.pem` into this folder. An expired\n"
        "`crl.pem` locks out every client: renew it long before its nextUpdate.\n\n",
    }[plan.security]
    list_of_tills = (
        "There is no list of tills: whoever has a certificate of this authority is let in under its CN.\n"
        if plan.security == "mutual"
        else f"`passwords` has {len(plan.till_ids)} tills. For new ones run the recipe again and reload.\n"
    )
    return f"""# Mosquitto for tillstream

Made by `tillstream broker recipe mosquitto` for up to {plan.tills} tills and {plan.workers} workers.

{tls}```sh
apt-get install mosquitto nftables
chgrp -R {plan.account} {plan.folder}      # the account reads there; nobody but root writes what root runs
install -D {plan.file("systemd.conf")} /etc/systemd/system/mosquitto.service.d/tillstream.conf
systemctl daemon-reload
systemctl restart mosquitto
nft -f {plan.file("nftables.conf")}         # and include it in /etc/nftables.conf, so that it is there after a reboot
```

{list_of_tills}
A till or a worker of central is denied by its name in the deny list (`--deny`): run the recipe again, then
`systemctl reload mosquitto`. It loses every right at once and cannot log in by token again; a certificate is taken
back by `crl.pem`, for its next connection.

Mosquitto has no bound of its own on what one client publishes. `nftables.conf` has:
{plan.till_bytes_per_s} bytes a second for each address but central's. Tills of one shop behind one address share it.

A second run of the recipe leaves files that you changed as they are, and says which.
"""
