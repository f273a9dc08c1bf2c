"""A Kamailio between the telephones and us: registrar with digest, and a proxy that records its route.

Everybody's password is `secret`, and its registrations live in its memory alone: one that was killed and
started again knows nobody. Only calls of the user `flowcatd` are asked for credentials, since pyVoIP
understands no 407.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.interop.programs import Program, made, program

MODULES = next(map(str, Path("/usr/lib").glob("*/kamailio/modules")), "")
REALM = "interop.example"
PASSWORD = "secret"
CONFIG = """\
#!KAMAILIO
debug=2
log_stderror=yes
fork=yes
children=1
tcp_children=1
listen=udp:127.0.0.1:{port}
listen=tcp:127.0.0.1:{port}
alias="{realm}"
auto_aliases=no
mpath="{modules}"
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "maxfwd.so"
loadmodule "textops.so"
loadmodule "siputils.so"
loadmodule "xlog.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
loadmodule "auth.so"
modparam("usrloc", "db_mode", 0)
modparam("rr", "enable_full_lr", 1)
modparam("registrar", "min_expires", 5)
modparam("registrar", "max_expires", 600)

request_route {{
    xlog("L_NOTICE", "SEEN $rm from $fU to $ru\\n");
    if (!mf_process_maxfwd_header("10")) {{ sl_send_reply("483", "Too Many Hops"); exit; }}
    if (has_totag()) {{
        if (loose_route()) {{ t_relay(); exit; }}
        # pyVoIP sends its BYE to where it registered, without the route.
        if (is_method("BYE") && !(uri==myself)) {{ t_relay(); exit; }}
        if (is_method("ACK")) {{ if (t_check_trans()) t_relay(); exit; }}
        sl_send_reply("404", "Not Here"); exit;
    }}
    if (is_method("CANCEL")) {{ if (t_check_trans()) t_relay(); exit; }}
    t_check_trans();
    if (is_method("OPTIONS") && uri==myself) {{ sl_send_reply("200", "OK"); exit; }}
    if (is_method("REGISTER")) {{
        if (!pv_www_authenticate("{realm}", "{password}", "0")) {{
            www_challenge("{realm}", "1"); exit;
        }}
        if (!save("location")) sl_reply_error();
        xlog("L_NOTICE", "REGISTERED $tU\\n");
        exit;
    }}
    if ($fU == "flowcatd") {{
        if (!pv_proxy_authenticate("{realm}", "{password}", "0")) {{
            proxy_challenge("{realm}", "1"); exit;
        }}
        consume_credentials();
    }}
    record_route();
    if (!lookup("location")) {{ sl_send_reply("404", "Not Found"); exit; }}
    t_relay();
}}
"""


@asynccontextmanager
async def kamailio(place: Path, port: int, log: str = "log") -> AsyncIterator[Program]:
    """Run one on this port until the block ends."""
    config = made(place) / "kamailio.cfg"
    config.write_text(CONFIG.format(port=port, realm=REALM, password=PASSWORD, modules=MODULES))
    words = ("-f", str(config), "-DD", "-E", "-m", "32", "-M", "4", "-Y", str(place))
    async with program("kamailio", *words, place=place, log=log) as running:
        await running.says("probe_max_receive_buffer")
        yield running
