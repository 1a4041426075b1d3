"""The rules that bound what one address may send to a broker: no broker but the embedded one does it by itself.

Pure.
"""

from __future__ import annotations

import ipaddress

from .plan import Plan

ADDRESSES_MAX = 65_535


def rules(plan: Plan) -> str:
    """Return a table that may be loaded again and again; packets over the rate are dropped, so TCP slows down."""
    burst = 4 * plan.till_bytes_per_s
    over = f"limit rate over {plan.till_bytes_per_s} bytes/second burst {burst} bytes"
    return f"""#!/usr/sbin/nft -f
# What one address may send to the broker at port {plan.port}; a till that floods would keep all others waiting.
table inet tillstream
delete table inet tillstream
table inet tillstream {{
  set trusted4 {{ type ipv4_addr; flags interval;{_elements(plan.trusted, 4)} }}
  set trusted6 {{ type ipv6_addr; flags interval;{_elements(plan.trusted, 6)} }}
  set rates4 {{ type ipv4_addr; size {ADDRESSES_MAX}; flags dynamic,timeout; timeout 1m; }}
  set rates6 {{ type ipv6_addr; size {ADDRESSES_MAX}; flags dynamic,timeout; timeout 1m; }}
  chain incoming {{
    type filter hook input priority filter; policy accept;
    tcp dport {plan.port} ip saddr @trusted4 accept
    tcp dport {plan.port} ip6 saddr @trusted6 accept
    tcp dport {plan.port} update @rates4 {{ ip saddr {over} }} counter drop
    tcp dport {plan.port} update @rates6 {{ ip6 saddr {over} }} counter drop
  }}
}}
"""


def _elements(networks: tuple[str, ...], version: int) -> str:
    chosen = [text for text in networks if ipaddress.ip_network(text).version == version]
    return f" elements = {{ {', '.join(chosen)} }};" if chosen else ""
